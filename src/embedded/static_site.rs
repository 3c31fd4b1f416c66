//! Serves a static site: index.html, ETag, ranges, its own 404 page. Compression wraps it from outside.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use actix_files::NamedFile;
use actix_web::body::{MessageBody, SizedStream};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpRequest, HttpResponse};
use tokio_util::io::ReaderStream;

/// Files of the project itself, which no visitor needs.
const OURS: [&str; 2] = ["windlass.toml", ".windlassignore"];

/// Takes a `Range` off the request that is none: it may be passed over (RFC 9110, section 14.2), and the file is more help
/// than a refusal.
pub(super) async fn without_bad_range(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let range = request.headers().get(header::RANGE);
    if range.is_some_and(|range| !range.to_str().is_ok_and(is_range)) {
        drop(request.headers_mut().remove(header::RANGE));
    }
    next.call(request).await
}

/// Weakens the tag of a compressed answer: its bytes are not the file's, so parts of both may not be joined (RFC 9110, section
/// 8.8.3.3).
///
/// "Not modified" has the weak tag too, by which a cache finds either copy (RFC 9111, section 4.3.4).
pub(super) async fn with_true_tag(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut response = next.call(request).await?;
    let compressed = response.headers().contains_key(header::CONTENT_ENCODING);
    if compressed || response.status() == StatusCode::NOT_MODIFIED {
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let weak =
            tag.filter(|tag| !tag.starts_with("W/")).map(|tag| HeaderValue::try_from(format!("W/{tag}")));
        if let Some(Ok(weak)) = weak {
            drop(response.headers_mut().insert(header::ETAG, weak));
        }
    }
    Ok(response)
}

/// Whether a `Range` of bytes is well formed (RFC 9110, section 14.1.2); whether the file has them is another question.
fn is_range(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let position = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    let fits = |range: &str| {
        range.split_once('-').is_some_and(|(first, last)| {
            let backwards = !first.is_empty() && !last.is_empty() && position(first) > position(last);
            digits(first) && digits(last) && range != "-" && !backwards
        })
    };
    let Some((unit, ranges)) = text.split_once('=') else { return false };
    let mut ranges = ranges.split(',').map(str::trim).filter(|range| !range.is_empty()).peekable();
    unit.eq_ignore_ascii_case("bytes") && ranges.peek().is_some() && ranges.all(fits)
}

/// Answers a request from the files below `root`.
pub(super) fn serve(request: &HttpRequest, root: &Path) -> HttpResponse {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "GET, HEAD")).finish();
    }
    let path = match find(root, request.path()) {
        Found::File(path) => path,
        Found::Folder => {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            // Two slashes at the beginning would be read as a host name.
            let path = request.path().trim_start_matches('/');
            return HttpResponse::MovedPermanently()
                .insert_header((header::LOCATION, format!("/{path}/{query}")))
                .finish();
        }
        Found::Nothing => return missing(root),
    };
    match NamedFile::open(&path) {
        Ok(file) => file
            .use_etag(true)
            .use_last_modified(false)
            .prefer_utf8(true)
            .disable_content_disposition()
            .into_response(request),
        Err(_) => missing(root),
    }
}

/// The site's own page, whole: a range and conditions are meant for what was asked for, not for what is said instead.
fn missing(root: &Path) -> HttpResponse {
    let page = inside(root, &root.join("404.html")).and_then(|page| File::open(page).ok());
    let mut answer = HttpResponse::build(StatusCode::NOT_FOUND);
    match page.and_then(|page| Some((page.metadata().ok()?.len(), page))) {
        Some((length, page)) => {
            let content = ReaderStream::new(tokio::fs::File::from_std(page));
            answer.content_type("text/html; charset=utf-8").body(SizedStream::new(length, content))
        }
        None => answer.content_type("text/plain; charset=utf-8").body("404: there is no such page\n"),
    }
}

/// The real path of a file, if it is inside the root also after links are followed.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let (real, root) = (path.canonicalize().ok()?, root.canonicalize().ok()?);
    (real.starts_with(root) && real.is_file()).then_some(real)
}

enum Found {
    File(PathBuf),
    Folder,
    Nothing,
}

/// The file of a URL path: inside the root also after links are followed, never hidden, never a file of ours.
fn find(root: &Path, url: &str) -> Found {
    let Some(relative) = decode(url) else { return Found::Nothing };
    let hidden = |part: Component<'_>| match part {
        Component::Normal(name) => {
            let name = name.to_string_lossy();
            (name.starts_with('.') && name != ".well-known") || OURS.contains(&&*name)
        }
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => true,
    };
    if relative.components().any(hidden) {
        return Found::Nothing;
    }
    let path = root.join(&relative);
    let (Ok(real), Ok(real_root)) = (path.canonicalize(), root.canonicalize()) else {
        return as_page(root, &relative);
    };
    if !real.starts_with(&real_root) {
        return Found::Nothing;
    }
    if real.is_dir() {
        return match (inside(root, &real.join("index.html")), url.ends_with('/')) {
            (Some(index), true) => Found::File(index),
            (Some(_), false) => Found::Folder,
            (None, _) => as_page(root, &relative),
        };
    }
    Found::File(real)
}

/// `/about` is `about.html`, as static hosts have it; also beside a folder `about` with more pages.
fn as_page(root: &Path, relative: &Path) -> Found {
    let page = root.join(relative).with_extension("html");
    match (page.canonicalize(), root.canonicalize()) {
        (Ok(page), Ok(root))
            if relative.extension().is_none() && page.starts_with(&root) && page.is_file() =>
        {
            Found::File(page)
        }
        _ => Found::Nothing,
    }
}

fn decode(url: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(url.len());
    let mut rest = url.trim_start_matches('/').bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(['\0', '\\'])).then(|| PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::test::TestRequest;

    use super::*;

    fn check(url: &str) -> &'static str {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("site");
        for file in [
            "index.html",
            "about.html",
            "docs/index.html",
            "blog.html",
            "blog/first.html",
            "bare/a.txt",
            "a b.txt",
            ".env",
            "windlass.toml",
        ] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        std::fs::write(home.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(home.path().join("secret"), root.join("leak")).unwrap();
        std::fs::create_dir(root.join("trap")).unwrap();
        std::os::unix::fs::symlink(home.path().join("secret"), root.join("trap/index.html")).unwrap();
        match find(&root, url) {
            Found::File(path) => {
                assert!(path.starts_with(root.canonicalize().unwrap()));
                "file"
            }
            Found::Folder => "folder",
            Found::Nothing => "nothing",
        }
    }

    #[test]
    fn a_range_is_told_from_what_is_none() {
        for range in ["bytes=0-0", "bytes=5-", "bytes=-5", "Bytes=0-1, 4-5", "bytes=0-99999999999999999999"] {
            assert!(is_range(range), "{range}");
        }
        for none in
            ["", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=abc", "bytes=5-2", "bytes=+1-2", "lines=1-2"]
        {
            assert!(!is_range(none), "{none}");
        }
    }

    #[test]
    fn only_files_of_the_site_are_found() {
        for url in ["/", "/index.html", "/about", "/docs/", "/a%20b.txt", "/blog", "/blog/", "/blog/first"] {
            assert_eq!(check(url), "file", "{url}");
        }
        assert_eq!(check("/docs"), "folder");
        for url in [
            "/nope",
            "/../secret",
            "/%2e%2e/secret",
            "/docs/../../secret",
            "/leak",
            "/trap/",
            "/bare",
            "/bare/",
            "/.env",
            "/windlass.toml",
            "/%00",
            "/%zz",
            "//etc/passwd",
            "/..%5csecret",
        ] {
            assert_eq!(check(url), "nothing", "{url}");
        }
    }

    #[test]
    fn a_folder_is_found_on_the_same_host() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("docs")).unwrap();
        std::fs::write(home.path().join("docs/index.html"), "docs").unwrap();
        for (url, location) in [("/docs?a=b", "/docs/?a=b"), ("//docs", "/docs/"), ("///docs", "/docs/")] {
            let response = serve(&TestRequest::with_uri(url).to_http_request(), home.path());
            assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY, "{url}");
            assert_eq!(response.headers().get(header::LOCATION).unwrap(), location, "{url}");
        }
    }

    #[tokio::test]
    async fn the_page_for_what_is_missing_is_sent_whole() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("404.html"), "not here").unwrap();
        for condition in [("range", "bytes=0-3"), ("if-none-match", "*"), ("if-match", "\"another\"")] {
            let request = TestRequest::with_uri("/nope").insert_header(condition).to_http_request();
            let response = serve(&request, home.path());
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{condition:?}");
            assert!(!response.headers().contains_key(header::CONTENT_RANGE), "{response:?}");
            assert_eq!(to_bytes(response.into_body()).await.unwrap(), "not here", "{condition:?}");
        }
    }
}
