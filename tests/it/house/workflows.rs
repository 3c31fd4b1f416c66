//! The workflows of this repository, those of the examples, and the documents around them. That they are valid for
//! GitHub, `.ci/workflows` shows.

use std::collections::BTreeSet;
use std::path::Path;

use super::{files, root, text};

/// Every workflow with its path.
fn workflows() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in [".github/workflows", "examples/workflows"] {
        for path in files(&root().join(folder), "yml") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// What starts a workflow: the lines below `on:`, each without its indentation.
fn triggers(workflow: &str) -> Vec<String> {
    let text = text(&format!("examples/workflows/{workflow}.yml"));
    let (_, rest) = text.split_once("\non:\n").unwrap();
    rest.lines().take_while(|line| line.starts_with(' ')).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn the_example_workflows_have_the_documents_triggers() {
    assert_eq!(
        triggers("azure-static-web-apps"),
        [
            "push:",
            "branches: [main]",
            "pull_request:",
            "branches: [main]",
            "types: [opened, synchronize, reopened, closed]"
        ]
    );
    assert_eq!(
        triggers("azure-backend-deploy"),
        ["push:", "branches: [main]", "paths: [\"src/backend/**\"]"]
    );
    assert_eq!(triggers("azure-database-provision"), ["workflow_dispatch:"]);
    assert_eq!(triggers("azure-redis-provision"), ["workflow_dispatch:"]);
    let own = text(".github/workflows/ci.yml");
    assert!(own.contains("on:\n  push:\n    branches: [main, develop]\n  pull_request:\n"));
    let ci = text(".ci/run");
    assert!(
        ci.contains("\n.ci/workflows\n") && ci.contains("\ninfra/terraform/check\n"),
        "CI checks neither"
    );
    assert!(text(".ci/workflows").contains("examples/workflows/*.yml"), "the examples are not checked");
}

#[test]
fn workflows_sign_in_without_a_stored_secret_and_pin_what_they_use() {
    let workflows = workflows();
    assert!(workflows.len() >= 8, "{}", workflows.len());
    let mut signed_in = Vec::new();
    for (name, workflow) in &workflows {
        assert!(workflow.contains("\npermissions:"), "{name} gets every right that there is");
        for line in workflow.lines() {
            let Some((_, used)) = line.split_once("uses: ") else { continue };
            let pin = used.split_once('@').map_or("", |(_, rest)| rest.split(' ').next().unwrap());
            let pinned = pin.len() == 40 && pin.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(pinned, "{name} uses {used}, whatever that will be tomorrow");
        }
        for word in ["AZURE_CREDENTIALS", "client-secret", "creds:", "--password ", "terraform apply"] {
            assert!(!workflow.contains(word), "{name} has {word}");
        }
        if workflow.contains("uses: azure/login@") {
            assert!(workflow.contains("id-token: write"), "{name} cannot ask for a token");
            for part in ["client-id: ${{ vars.", "tenant-id: ${{ vars.", "subscription-id: ${{ vars."] {
                assert!(workflow.contains(part), "{name} does not say {part}");
            }
            signed_in.push(name.as_str());
        }
    }
    assert_eq!(
        signed_in,
        [
            ".github/workflows/deploy.yml",
            "examples/workflows/azure-backend-deploy.yml",
            "examples/workflows/azure-database-provision.yml",
            "examples/workflows/azure-redis-provision.yml"
        ]
    );
}

/// Names after `secrets.` and `vars.`.
fn needed(workflow: &str) -> BTreeSet<String> {
    ["{{ secrets.", "{{ vars.", " || secrets.", " || vars."]
        .iter()
        .flat_map(|before| workflow.split(before).skip(1))
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap().to_owned())
        .collect()
}

/// Names in code in the first column of a page's tables.
fn listed(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|line| {
            line.split('|').next().unwrap().split('`').step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .collect()
}

#[test]
fn what_the_workflows_need_is_documented() {
    let page = text("docs/workflows.md");
    let mut wanted = BTreeSet::new();
    for (name, workflow) in workflows() {
        if name.starts_with("examples/") {
            wanted.append(&mut needed(&workflow));
            let file = name.rsplit('/').next().unwrap();
            assert!(
                page.contains(&format!("(../examples/workflows/{file})")),
                "{file} is not in docs/workflows.md"
            );
        }
    }
    assert!(wanted.contains("DB_ADMIN_PASSWORD") && wanted.contains("AZURE_STATIC_WEB_APPS_API_TOKEN"));
    let mut documented = listed(&page);
    // The one that is named to say that nothing needs it.
    assert!(
        documented.remove("AZURE_CREDENTIALS")
            && page.contains("| `AZURE_CREDENTIALS` | secret | not needed")
    );
    assert_eq!(wanted, documented, "what docs/workflows.md lists");

    let wanted = needed(&text(".github/workflows/deploy.yml"));
    let documented = listed(&text("docs/azure.md"));
    assert!(wanted.is_subset(&documented), "{wanted:?} are not all in docs/azure.md: {documented:?}");
    // Made by chance and kept in the vault unless somebody brings one.
    let database = text("examples/workflows/azure-database-provision.yml");
    assert!(database.contains("password=${GIVEN:-$(openssl rand -hex 24)}"));
    assert!(database.contains("az keyvault secret set --vault-name \"$VAULT\" --name db-admin-password"));
}

#[test]
fn ci_validates_and_plans_the_infrastructure() {
    let has = |path: &str, lines: &[&str]| {
        let text = text(path);
        for line in lines {
            assert!(text.lines().any(|found| found.trim() == *line), "{path} does not say: {line}");
        }
    };
    has(".ci/run", &["infra/terraform/check"]);
    has("infra/terraform/check", &["terraform fmt -check -diff -recursive", "standin/run"]);
    has("infra/terraform/standin/run", &["./prove", "for values in dev.tfvars prod.tfvars.example; do"]);
    has("infra/terraform/prove", &["terraform validate", "quiet terraform test"]);
    // Once more with the real provider, which not every machine can fetch.
    has(".github/workflows/ci.yml", &["- run: infra/terraform/prove"]);
}

#[test]
fn applying_is_documented_and_not_done_by_ci() {
    assert!(text("infra/terraform/README.md").contains("terraform apply prod.tfplan"));
    assert!(
        text("infra/terraform/README.md").contains("terraform plan  -var-file=prod.tfvars -out=prod.tfplan")
    );
    for script in [
        ".ci/run",
        ".ci/workflows",
        "infra/terraform/check",
        "infra/terraform/prove",
        "infra/terraform/standin/run",
    ] {
        let text = text(script);
        let applies = text.lines().any(|line| line.contains("terraform") && line.contains(" apply"));
        assert!(!applies, "{script} applies");
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut pages =
        vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("SECURITY.md")];
    for folder in ["docs", "infra", "examples"] {
        pages.extend(files(&root().join(folder), "md"));
    }
    let mut links = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            let target = page.parent().unwrap_or(Path::new("/")).join(path);
            assert!(target.exists(), "{} links to {path}", page.display());
            links += 1;
        }
    }
    assert!(links > 30, "{links} links were found");
}
