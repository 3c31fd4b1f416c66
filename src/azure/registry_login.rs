//! Signing in at a registry: as nobody, by name and password, or as an identity of Azure's.
//!
//! The registry exchanges the identity's own token for one that is good for the named repositories only (Azure's registry
//! documentation, "AAD OAuth").

use std::sync::Arc;

use azure_core::base64::encode;
use azure_core::credentials::TokenCredential;
use azure_core::http::headers::{AUTHORIZATION, CONTENT_TYPE};
use azure_core::http::{Method, Request, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::registry_door::{Door, RegistryError};
use super::transport::Wire;
use crate::config::is_loopback;

/// Audience of tokens for registries, the same in every cloud.
const SCOPE: &str = "https://containerregistry.azure.net/.default";

/// Who signs in.
pub enum Login {
    /// Whoever may read what is public.
    Nobody,
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        secret: SecretString,
    },
    /// An identity of Azure's.
    Identity(Arc<dyn TokenCredential>),
}

/// One parameter of a challenge such as `Bearer realm="…",service="…"`.
fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let begin = challenge.find(&format!("{name}=\""))? + name.len() + 2;
    challenge.get(begin..)?.split('"').next()
}

fn basic(user: &str, secret: &SecretString) -> String {
    format!("Basic {}", encode(format!("{user}:{}", secret.expose_secret())))
}

/// The header with which the registry behind the door lets us in, after its challenge; none when there is nothing to say.
pub(super) async fn authorization(
    door: &Door,
    login: &Login,
    challenge: &str,
    scopes: &[String],
) -> Result<Option<String>, RegistryError> {
    let wants_basic = challenge.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"));
    let service = parameter(challenge, "service");
    match login {
        Login::Identity(credential) => {
            exchanged(door, credential, service.unwrap_or(&door.host), scopes).await.map(Some)
        }
        Login::Password { user, secret } if wants_basic => Ok(Some(basic(user, secret))),
        Login::Nobody if wants_basic => Ok(None),
        Login::Nobody => bearer(door, challenge, scopes, None).await.map(Some),
        Login::Password { user, secret } => {
            bearer(door, challenge, scopes, Some(basic(user, secret))).await.map(Some)
        }
    }
}

/// A token from where the challenge says (distribution specification, "Token Authentication").
async fn bearer(
    door: &Door,
    challenge: &str,
    scopes: &[String],
    login: Option<String>,
) -> Result<String, RegistryError> {
    let realm = parameter(challenge, "realm").and_then(|realm| realm.parse::<Url>().ok());
    let fits = |url: &Url| url.scheme() == "https" || is_loopback(url);
    let Some(mut url) = realm.filter(fits) else {
        return Err(door.refused("it does not say where it signs people in"));
    };
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = parameter(challenge, "service") {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
    }
    let mut request = Request::new(Wire::secure(&url), Method::Get);
    if let Some(login) = login {
        request.insert_header(AUTHORIZATION, login);
    }
    let answer = door.ask(request).await?;
    if answer.status != 200 {
        return Err(door.error(&answer));
    }
    token(door, &answer.body, &["token", "access_token"])
}

/// The identity's token for the registry's own one, and that for one of the repositories. Only the registry itself is asked.
async fn exchanged(
    door: &Door,
    credential: &Arc<dyn TokenCredential>,
    service: &str,
    scopes: &[String],
) -> Result<String, RegistryError> {
    let identity = credential.get_token(&[SCOPE], None).await.map_err(|error| door.unavailable(&error))?;
    let form =
        [("grant_type", "access_token"), ("service", service), ("access_token", identity.token.secret())];
    let refresh = post(door, "oauth2/exchange", &form, "refresh_token").await?;
    let scopes = scopes.join(" ");
    let form = [
        ("grant_type", "refresh_token"),
        ("service", service),
        ("scope", scopes.as_str()),
        ("refresh_token", refresh.as_str()),
    ];
    let access = post(door, "oauth2/token", &form, "access_token").await?;
    Ok(format!("Bearer {access}"))
}

/// Sends a form to the registry and takes one member of its answer.
async fn post(door: &Door, path: &str, form: &[(&str, &str)], member: &str) -> Result<String, RegistryError> {
    let mut url = door.base.join(path).map_err(|error| door.unavailable(&error))?;
    url.query_pairs_mut().extend_pairs(form);
    let body = url.query().unwrap_or_default().to_owned();
    url.set_query(None);
    let mut request = Request::new(url, Method::Post);
    request.insert_header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.set_body(body);
    let answer = door.ask(request).await?;
    if answer.status != 200 {
        return Err(door.error(&answer));
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let found = body.get(member).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| door.refused("its sign-in gives no token"))
}

fn token(door: &Door, body: &[u8], members: &[&str]) -> Result<String, RegistryError> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let found = members.iter().find_map(|member| body.get(*member)?.as_str());
    found.map(|token| format!("Bearer {token}")).ok_or_else(|| door.refused("its sign-in gives no token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_taken_apart() {
        let challenge = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(parameter(challenge, "realm"), Some("https://auth.docker.io/token"));
        assert_eq!(parameter(challenge, "service"), Some("registry.docker.io"));
        assert_eq!(parameter(challenge, "scope"), Some("repository:a/b:pull,push"));
        assert_eq!(parameter("Basic", "realm"), None);
        assert_eq!(basic("robot", &"s".to_owned().into()), "Basic cm9ib3Q6cw==");
    }
}
