//! Every error code, with what happened and what to do.

use super::codes::Category::{self, Internal, ProviderPermanent, ProviderTransient, Quota, User};
use super::codes::Code;

const fn code(
    code: &'static str,
    status: u16,
    category: Category,
    texts: (&'static str, &'static str),
) -> Code {
    let retryable = matches!(category, ProviderTransient | Quota);
    Code { code, status, category, retryable, title: texts.0, advice: texts.1 }
}

/// A limit that does not pass by itself: a person has to raise it, or to free something.
const fn fixed(limit: Code) -> Code {
    Code { retryable: false, ..limit }
}

/// Every code, sorted.
pub const CODES: &[Code] = &[
    code("APP_LOGS_UNCONFIGURED", 0, User, ("Nobody keeps what apps say", "Set LOG_ANALYTICS_WORKSPACE.")),
    code(
        "ARTIFACT_STORE_FAILED",
        0,
        ProviderTransient,
        ("The build's result cannot be stored or looked at", "Look at the message, then retry."),
    ),
    code(
        "AZURE_CAPACITY",
        0,
        ProviderTransient,
        (
            "The Azure region has no room for this now",
            "Retry later, or set AZURE_LOCATION to another region.",
        ),
    ),
    code(
        "AZURE_FORBIDDEN",
        0,
        User,
        ("The identity of Windlass may not do this on Azure", "Give it the role that the message names."),
    ),
    code(
        "AZURE_NAME_TAKEN",
        0,
        User,
        (
            "The name belongs to something else on Azure",
            "Remove what has it, or give the project another name.",
        ),
    ),
    code(
        "AZURE_NOT_FOUND",
        0,
        User,
        ("The subscription is not one of this sign-in", "Check AZURE_SUBSCRIPTION_ID and AZURE_TENANT_ID."),
    ),
    fixed(code(
        "AZURE_QUOTA",
        0,
        Quota,
        ("A quota of the subscription is used up", "Ask for a larger quota, or free something."),
    )),
    code("AZURE_REJECTED", 0, User, ("Azure refused a request", "Read the cause in the message.")),
    code(
        "AZURE_RESOURCE_MISSING",
        0,
        User,
        (
            "Something that deployments need is not on Azure",
            "Make what the message names, or correct the setting.",
        ),
    ),
    code(
        "AZURE_SIGN_IN",
        0,
        User,
        ("The sign-in to Azure was refused", "The message says which setting to mend."),
    ),
    code(
        "AZURE_SOFT_DELETED",
        0,
        User,
        ("Something deleted keeps the name", "Recover it on Azure, or purge it."),
    ),
    code(
        "BAD_REQUEST",
        400,
        User,
        ("The request cannot be read", "Send well-formed JSON with Content-Type application/json."),
    ),
    code(
        "BASE_IMAGE_UNUSABLE",
        0,
        User,
        (
            "The image that the project would be put on cannot be used",
            "Name one in WINDLASS_BASE_IMAGES that exists and has an image for WINDLASS_PLATFORM.",
        ),
    ),
    code(
        "BODY_TOO_LARGE",
        413,
        User,
        ("The request body is too large", "Send less; the message names the limit."),
    ),
    code(
        "BODY_TOO_SLOW",
        408,
        User,
        ("The request body stopped coming", "Send it without long pauses; the message names the limit."),
    ),
    code(
        "BUILDER_NOT_ALLOWED",
        0,
        User,
        (
            "The registry may not run builds in this subscription",
            "Set WINDLASS_KANIKO_IMAGE so that a job builds, or ask Microsoft to allow ACR Tasks.",
        ),
    ),
    code(
        "BUILDER_UNAVAILABLE",
        0,
        ProviderTransient,
        ("The builder cannot work", "Look at the message; usually the disk is full or not writable."),
    ),
    code(
        "BUILDER_UNFIT",
        0,
        User,
        (
            "The configured builder runs nothing, but this project has to be built",
            "Upload it built and with `build = \"\"` in windlass.toml, or set WINDLASS_BUILDER to auto.",
        ),
    ),
    code(
        "BUILD_FAILED",
        0,
        User,
        ("The build command failed", "Read the last lines; run the command in your folder."),
    ),
    code(
        "BUILD_NOT_STARTED",
        0,
        ProviderPermanent,
        ("The build could not be started", "Run `windlass doctor` on the server."),
    ),
    code(
        "BUILD_OUTPUT_MISSING",
        0,
        User,
        (
            "The build left nothing to deploy",
            "Let the build write to the folder named by `output` in windlass.toml.",
        ),
    ),
    code(
        "BUILD_OUTPUT_TOO_LARGE",
        0,
        User,
        (
            "The build left more than one release may have",
            "Name a smaller folder as `output` in windlass.toml, or let the build remove what the app does not need.",
        ),
    ),
    code("CANCELLED", 0, User, ("It was cancelled", "Retry it when you want it after all.")),
    code(
        "CONTENT_DAMAGED",
        0,
        ProviderPermanent,
        ("Stored content is damaged", "Deploy again from the folder; what is damaged is uploaded again."),
    ),
    code(
        "CONTENT_MISMATCH",
        422,
        User,
        ("The content is not what its name says", "Upload the file again; it changed while it was read."),
    ),
    code(
        "DEPLOYMENT_NOT_FOUND",
        404,
        User,
        ("There is no such deployment", "`windlass list` shows the newest ones."),
    ),
    code(
        "DEPLOYMENT_TIMEOUT",
        0,
        User,
        ("The deployment's deadline passed", "Make the build faster or raise DEPLOYMENT_TIMEOUT_MS."),
    ),
    code("DISK_FULL", 507, ProviderTransient, ("The server's disk is full", "Make room; nothing was lost.")),
    code(
        "DOMAIN_CERTIFICATE_FAILED",
        0,
        User,
        (
            "The certificate of a domain was not issued",
            "Mend what the message names, let the record lead straight to the app, then retry.",
        ),
    ),
    code(
        "DOMAIN_CERTIFICATE_PENDING",
        0,
        ProviderTransient,
        (
            "The certificate of a domain was not issued in time",
            "Raise DEPLOYMENT_TIMEOUT_MS (issuing takes up to twenty minutes), then retry.",
        ),
    ),
    code(
        "DOMAIN_DNS_MISSING",
        0,
        User,
        ("The DNS records of a domain are not seen", "Set the records that the message lists, then retry."),
    ),
    code(
        "DOMAIN_NOT_ACTIVE",
        0,
        ProviderTransient,
        ("The host name does not lead to the release yet", "Retry."),
    ),
    code(
        "DOMAIN_TAKEN",
        0,
        User,
        ("The host name belongs to another app", "Remove it there, or ask for another."),
    ),
    code(
        "FORBIDDEN_ORIGIN",
        403,
        User,
        (
            "A web page or a foreign host name made this request",
            "Call the API from a program, by 127.0.0.1 or localhost.",
        ),
    ),
    code(
        "IDEMPOTENCY_KEY_REUSED",
        409,
        User,
        ("The Idempotency-Key was used with another body", "Use a new key for a new request."),
    ),
    code("INTERNAL", 500, Internal, ("Windlass made a mistake", "Report it with the correlation id.")),
    code("METHOD_NOT_ALLOWED", 405, User, ("This path does not take this method", "See the API reference.")),
    code("NOT_FOUND", 404, User, ("There is nothing at this path", "See the API reference.")),
    code(
        "QUEUE_FULL",
        503,
        Quota,
        ("As many deployments wait as can be kept in order", "Wait until some are done, then try again."),
    ),
    code(
        "REGISTRY_FORBIDDEN",
        0,
        User,
        (
            "The registry does not let Windlass push or read there",
            "Give the identity of Windlass AcrPush, or the writer role on the repository.",
        ),
    ),
    code("REGISTRY_REFUSED", 0, User, ("The registry refused a request", "Read the cause in the message.")),
    code(
        "RELEASE_CRASHED",
        0,
        User,
        ("The app ended before it answered", "Read its last lines; it has to listen on $PORT."),
    ),
    code("RELEASE_CRASH_LOOP", 0, User, ("The app keeps crashing", "Read its log: `windlass logs --app`.")),
    code(
        "RELEASE_IMAGE",
        0,
        User,
        ("The image cannot be pulled", "Deploy again; the apps' identity needs AcrPull on the registry."),
    ),
    code(
        "RELEASE_NOT_SCALED",
        0,
        User,
        (
            "The app would not scale as it was asked to",
            "Deploy again; see whether a policy or a person changes the scale of container apps.",
        ),
    ),
    code(
        "RELEASE_NOT_UNPACKED",
        0,
        ProviderTransient,
        ("The release could not be unpacked", "Make room or mend the disk, then retry."),
    ),
    fixed(code(
        "RELEASE_QUOTA",
        0,
        Quota,
        ("The environment has no cores left", "Ask for a larger quota, or scale apps down."),
    )),
    code(
        "RELEASE_UNHEALTHY",
        0,
        User,
        (
            "The app does not answer its health check",
            "Let it listen on $PORT, or set [health] in windlass.toml.",
        ),
    ),
    code(
        "RUNTIME_UNAVAILABLE",
        0,
        ProviderTransient,
        ("The runtime cannot work", "Look at the message, then retry."),
    ),
    code(
        "SECRET_UNREADABLE",
        0,
        ProviderPermanent,
        ("A stored secret cannot be opened", "Set the variable again."),
    ),
    code(
        "SITE_FAILED",
        0,
        ProviderPermanent,
        ("The static web app did not take the files", "Read the cause in the message, then deploy again."),
    ),
    code(
        "SITE_TOO_LARGE",
        0,
        User,
        ("The site is larger than a static web app may be", "Leave files out, or use container-apps."),
    ),
    code(
        "SITE_UNFIT",
        0,
        User,
        ("The site has something that is no plain file, or none", "Mend what the message names."),
    ),
    code(
        "SOURCE_INCOMPLETE",
        0,
        User,
        ("Files of the source were not uploaded", "Upload what POST /sources names as missing."),
    ),
    code(
        "SOURCE_INVALID",
        400,
        User,
        ("The manifest is not valid", "Send plain files only, sorted by path."),
    ),
    code("SOURCE_NOT_FOUND", 0, User, ("There is no such source", "Upload it with POST /sources first.")),
    code("SOURCE_TOO_LARGE", 413, User, ("The source is too large", "Leave files out with .windlassignore.")),
    code("STATE_CONFLICT", 409, User, ("The deployment's status does not allow this", "Look at its status.")),
    code(
        "STORE_UNAVAILABLE",
        503,
        ProviderTransient,
        ("The store cannot be reached", "Try again shortly; nothing was lost."),
    ),
    code(
        "VALIDATION_DOCKERFILE",
        0,
        User,
        (
            "A Dockerfile cannot be built here",
            "Install podman or docker, or add a windlass.toml with another kind and a start command.",
        ),
    ),
    code(
        "VALIDATION_FAILED",
        400,
        User,
        ("The request is not valid", "Every problem is listed with its field."),
    ),
    code(
        "VALIDATION_PROJECT",
        0,
        User,
        ("The project cannot be deployed as it is", "The message says what to add."),
    ),
];
