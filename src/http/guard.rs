//! Lets through only what no web page could have forged: the API has no token yet, so it is for programs on this
//! machine. A page in a browser sends an Origin or a Sec-Fetch-Site; DNS rebinding sends a foreign Host.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderMap;
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpRequest};

use super::Api;
use super::problem::{Problem, correlation};

/// The middleware.
pub(super) async fn refuse_forged(
    api: Data<Api>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<actix_web::body::BoxBody>, Error> {
    match judge(request.request(), &api.hosts) {
        Ok(()) => next.call(request).await.map(ServiceResponse::map_into_boxed_body),
        Err(problem) => {
            let id = correlation(request.request(), api.windlass.tools.ids.random());
            Ok(request.into_response(problem.answer(&id)))
        }
    }
}

/// Where bodies may be compressed: there they are unpacked in small pieces, elsewhere a small one could fill the memory.
const COMPRESSED: &str = "/sources/blobs";

fn judge(request: &HttpRequest, hosts: &[String]) -> Result<(), Problem> {
    let headers = request.headers();
    own(headers, hosts).map_err(|detail| Problem::new("FORBIDDEN_ORIGIN", detail))?;
    if headers.contains_key("content-encoding") && !request.path().starts_with(COMPRESSED) {
        let detail = format!("only bodies for {COMPRESSED} may have a Content-Encoding");
        return Err(Problem::new("BAD_REQUEST", detail));
    }
    Ok(())
}

/// Whether a program on this machine sent it.
fn own(headers: &HeaderMap, hosts: &[String]) -> Result<(), String> {
    let host = text(headers, "host").unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    if !hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Err(format!("the Host header says `{host}`, this service answers on {}", hosts.join(", ")));
    }
    if let Some(outside) = text(headers, "x-forwarded-host")
        && !hosts
            .iter()
            .any(|known| outside.eq_ignore_ascii_case(known) || outside.starts_with(&format!("{known}:")))
    {
        return Err(format!(
            "the request comes from outside, for `{outside}`; that needs API tokens, which this version does not have"
        ));
    }
    let site = text(headers, "sec-fetch-site").unwrap_or("none");
    if site != "none" && site != "same-origin" {
        return Err("the request comes from another web site".to_owned());
    }
    match text(headers, "origin") {
        Some(origin) if origin != format!("http://{host}") => {
            Err(format!("the request comes from the web page `{origin}`"))
        }
        _ => Ok(()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    /// The status of the refusal, or 200.
    fn status(headers: &[(&'static str, &'static str)]) -> u16 {
        let request = headers
            .iter()
            .fold(TestRequest::post().uri("/deploy"), |request, header| request.insert_header(*header));
        let hosts = ["127.0.0.1", "localhost", "[::1]"].map(str::to_owned);
        let judged = judge(&request.to_http_request(), &hosts);
        judged.map_or_else(|problem| problem.answer("id").status().as_u16(), |()| 200)
    }

    fn check(headers: &[(&'static str, &'static str)]) -> bool {
        status(headers) == 200
    }

    #[test]
    fn programs_get_in_and_pages_do_not() {
        assert!(check(&[("host", "127.0.0.1:3010")]));
        assert!(check(&[("host", "LOCALHOST:3010")]));
        assert!(check(&[("host", "127.0.0.1:3010"), ("x-forwarded-host", "localhost:7071")]));
        assert!(!check(&[("host", "127.0.0.1:3010"), ("x-forwarded-host", "wl.azurewebsites.net")]));
        assert!(!check(&[("host", "127.0.0.1:3010"), ("x-forwarded-host", "localhost.example.com")]));
        assert!(check(&[("host", "[::1]:3010")]));
        assert!(check(&[
            ("host", "localhost:3010"),
            ("origin", "http://localhost:3010"),
            ("sec-fetch-site", "same-origin")
        ]));
        for bad in [
            &[][..],
            &[("host", "evil.example")],
            &[("host", "localhost.evil.example:3010")],
            &[("host", "app.localhost:3010")],
            &[("host", "localhost:3010"), ("origin", "http://evil.example")],
            &[("host", "localhost:3010"), ("origin", "http://localhost:3080")],
            &[("host", "localhost:3010"), ("origin", "null")],
            &[("host", "localhost:3010"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost:3010"), ("sec-fetch-site", "same-site")],
            &[("host", "evil.example"), ("content-encoding", "zstd")],
        ] {
            assert_eq!(status(bad), 403, "{bad:?}");
        }
        assert_eq!(status(&[("host", "localhost:3010"), ("content-encoding", "zstd")]), 400);
    }
}
