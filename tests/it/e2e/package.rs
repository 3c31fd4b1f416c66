//! The package for Azure Functions, made and checked by the real program.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

fn windlass(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_windlass")).args(arguments).output().unwrap()
}

/// As much of a static binary for x86-64 as is looked at.
fn binary() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01".to_vec();
    bytes.resize(18, 0);
    bytes.extend([0x3e, 0]);
    bytes
}

fn make(folder: &Path, name: &str, more: &[&str]) -> Output {
    let (input, output) = (folder.join("binary"), folder.join(name));
    std::fs::write(&input, binary()).unwrap();
    let fixed = ["package", "--binary", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
    windlass(&[&fixed, more].concat())
}

#[test]
fn a_package_has_what_the_host_looks_for_and_the_same_bytes_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let made = make(folder.path(), "one.zip", &[]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    make(folder.path(), "two.zip", &[]);
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(bytes("one.zip"), bytes("two.zip"));
    let mut zip = ZipArchive::new(std::fs::File::open(folder.path().join("one.zip")).unwrap()).unwrap();
    assert_eq!(zip.by_name("windlass").unwrap().unix_mode().unwrap() & 0o777, 0o755);
    let mut host = String::new();
    zip.by_name("host.json").unwrap().read_to_string(&mut host).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&host).unwrap()["version"], "2.0");
    assert_eq!(zip.len(), 2 + windlass::triggers::table::FOLDERS.len());
    let checked = windlass(&["package", "--verify", folder.path().join("one.zip").to_str().unwrap()]);
    assert!(checked.status.success() && String::from_utf8_lossy(&checked.stdout).contains("is fine"));

    make(folder.path(), "keys.zip", &["--auth-level", "function"]);
    let mut zip = ZipArchive::new(std::fs::File::open(folder.path().join("keys.zip")).unwrap()).unwrap();
    let mut function = String::new();
    zip.by_name("http-deploy/function.json").unwrap().read_to_string(&mut function).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&function).unwrap()["bindings"][0]["authLevel"], "function");
}

#[test]
fn a_binary_that_azure_cannot_run_makes_no_package() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("p.zip");
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let made =
        windlass(&["package", "--binary", script.to_str().unwrap(), "--output", output.to_str().unwrap()]);
    assert!(!made.status.success());
    assert!(String::from_utf8_lossy(&made.stderr).contains("not one for 64-bit Linux"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of it");
}

#[test]
fn a_package_that_cannot_be_read_is_not_said_to_be_unwritable() {
    let folder = tempfile::tempdir().unwrap();
    assert!(make(folder.path(), "whole.zip", &[]).status.success());
    let bytes = std::fs::read(folder.path().join("whole.zip")).unwrap();
    let cut = folder.path().join("cut.zip");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let checked = windlass(&["package", "--verify", cut.to_str().unwrap()]);
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1));
    assert!(said.contains("cut.zip cannot be read as a zip: ") && !said.contains("written"), "{said}");
}

/// What the check says of these files.
fn said(files: &[(&str, u32, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.zip");
    let mut zip = ZipWriter::new(std::fs::File::create(&path).unwrap());
    for (name, mode, content) in files {
        zip.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
        let content = if *content == "ELF" { binary() } else { content.as_bytes().to_vec() };
        zip.write_all(&content).unwrap();
    }
    zip.finish().unwrap();
    let output = windlass(&["package", "--verify", path.to_str().unwrap()]);
    assert_eq!(output.status.success(), String::from_utf8_lossy(&output.stdout).contains("is fine"));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_the_host_would_refuse_or_leave_out_is_said() {
    const HOST: &str = r#"{"version":"2.0","extensionBundle":{"id":"b"},"customHandler":{"description":{"defaultExecutablePath":"windlass"}}}"#;
    let host = ("host.json", 0o644, HOST);
    let good = ("windlass", 0o755, "ELF");
    let timer = |schedule: &str| {
        format!(
            r#"{{"bindings":[{{"type":"timerTrigger","direction":"in","name":"t","schedule":"{schedule}"}}]}}"#
        )
    };
    let route = |route: &str| {
        format!(
            r#"{{"bindings":[{{"type":"httpTrigger","direction":"in","name":"req","route":"{route}","methods":["get"]}},{{"type":"http","direction":"out","name":"res"}}]}}"#
        )
    };
    assert!(said(&[host, good]).contains("is fine"));
    let (every, never) = (timer("0 * * * * *"), timer("0 0 0 * * 7"));
    let (all, admin, ready) = (route("{*rest}"), route("administrators"), route("ready"));
    let two = r#"{"bindings":[{"type":"queueTrigger","direction":"in","name":"m_1","queueName":"q"},{"type":"timerTrigger","direction":"up","name":"M_1","schedule":"0 * * * * *"}]}"#;
    for (files, wanted) in [
        (vec![("app/host.json", 0o644, HOST)], "belongs at the top"),
        (vec![host], "is not in the package"),
        (vec![host, ("windlass", 0o644, "ELF")], "not executable"),
        (vec![("host.json", 0o644, "{"), good], "not JSON"),
        (vec![("host.json", 0o644, r#"{"version":"1.0"}"#), good], "has to be \"2.0\""),
        (vec![host, good, ("local.settings.json", 0o644, "{}")], "do not belong in a package"),
        (vec![host, good, ("1st/function.json", 0o644, &every)], "begins with a letter"),
        (vec![host, good, ("tick/function.json", 0o644, &never)], "cannot be read"),
        (vec![host, good, ("a/function.json", 0o644, two)], "2 triggers"),
        (vec![host, good, ("a/function.json", 0o644, two)], "is not a binding name"),
        (vec![host, good, ("a/function.json", 0o644, two)], "two bindings are called"),
        (vec![host, good, ("a/function.json", 0o644, two)], "has to be in, out or inout"),
        (vec![host, good, ("a/function.json", 0o644, &admin)], "belongs to the host"),
        (
            vec![host, good, ("a/function.json", 0o644, &all), ("tick/function.json", 0o644, &every)],
            "reaches the trigger tick",
        ),
        (
            vec![host, good, ("a/function.json", 0o644, &ready), ("b/function.json", 0o644, &ready)],
            "overlaps",
        ),
    ] {
        let said = said(&files);
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
