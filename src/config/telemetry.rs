//! Settings of telemetry: who receives spans and metrics. With none of them nothing is collected.

use azure_core::http::Url;
use secrecy::SecretString;

use super::azure::address;
use super::{Reader, Variable, variable};

/// A resource in Application Insights.
#[derive(Debug, Clone)]
pub struct AppInsights {
    /// Where telemetry is taken in.
    pub endpoint: Url,
    /// Names the resource; where keys are allowed, whoever has it may send.
    pub key: SecretString,
    /// Whether it wants tokens of our identity.
    pub with_identity: bool,
    /// What the tokens are for.
    pub audience: String,
}

/// Who receives telemetry.
#[derive(Debug, Clone, Default)]
pub struct TelemetrySettings {
    /// Application Insights.
    pub app_insights: Option<AppInsights>,
    /// Base address of a receiver of OTLP over HTTP, such as an OpenTelemetry collector.
    pub otlp: Option<Url>,
}

pub(super) const CONNECTION_STRING: &str = "APPLICATIONINSIGHTS_CONNECTION_STRING";
pub(super) const AUTHENTICATION: &str = "APPLICATIONINSIGHTS_AUTHENTICATION_STRING";
const OTLP: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Where a connection string without an endpoint leads (documentation of connection strings).
const INGESTION: &str = "https://dc.services.visualstudio.com/";
/// What tokens are for in the public cloud.
const AUDIENCE: &str = "https://monitor.azure.com";

pub(super) const TELEMETRY_VARIABLES: [Variable; 3] = [
    variable(CONNECTION_STRING, "", "Application Insights resource that receives telemetry"),
    variable(AUTHENTICATION, "", "`Authorization=AAD` when that resource wants tokens instead of its key"),
    variable(OTLP, "", "OpenTelemetry collector that receives telemetry, by OTLP over HTTP in JSON"),
];

/// The value of a key in `Key=Value;Key=Value`.
fn part<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(';')
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case(key))
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

impl Reader<'_> {
    /// Who receives telemetry.
    pub(super) fn telemetry(&mut self) -> TelemetrySettings {
        let wanted = "use an https address (http only on loopback)";
        let otlp = self.parsed(OTLP, None, wanted, |text| address(text).map(Some));
        TelemetrySettings { app_insights: self.app_insights(), otlp }
    }

    /// The Functions host sends as the identity that the string names, and Windlass as its own: they have to be one.
    fn check_identity(&mut self, client: &str) {
        let managed = matches!(self.text("WINDLASS_AZURE_AUTH"), None | Some("managed-identity"));
        let ours = self.text("AZURE_CLIENT_ID").unwrap_or_default();
        if managed && !ours.eq_ignore_ascii_case(client) {
            let problem = format!(
                "{AUTHENTICATION} names the identity {client}, and AZURE_CLIENT_ID `{ours}`; use one"
            );
            self.problems.push(problem);
        }
    }

    fn app_insights(&mut self) -> Option<AppInsights> {
        let text = self.text(CONNECTION_STRING)?.to_owned();
        let key = part(&text, "InstrumentationKey").map(SecretString::from);
        let endpoint = address(part(&text, "IngestionEndpoint").unwrap_or(INGESTION));
        let (Some(key), Some(endpoint)) = (key, endpoint) else {
            // The value itself is not repeated: it has the key in it.
            let problem = format!(
                "{CONNECTION_STRING} needs an InstrumentationKey, and an IngestionEndpoint by https (http only on loopback)"
            );
            self.problems.push(problem);
            return None;
        };
        let authentication = self.text(AUTHENTICATION).unwrap_or_default().to_owned();
        let with_identity =
            part(&authentication, "Authorization").is_some_and(|way| way.eq_ignore_ascii_case("AAD"));
        if with_identity && let Some(client) = part(&authentication, "ClientId") {
            self.check_identity(client);
        }
        let audience = part(&text, "AADAudience").unwrap_or(AUDIENCE).to_owned();
        Some(AppInsights { endpoint, key, with_identity, audience })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use secrecy::ExposeSecret as _;

    use super::super::{BadSettings, Settings};
    use super::*;

    fn check(values: &[(&str, &str)]) -> Result<TelemetrySettings, BadSettings> {
        let values: BTreeMap<String, String> =
            values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::from_values(&values).map(|settings| settings.telemetry)
    }

    #[test]
    fn a_connection_string_names_resource_and_endpoint() {
        let nothing = check(&[]).unwrap();
        assert!(nothing.app_insights.is_none() && nothing.otlp.is_none());
        let text =
            "InstrumentationKey=k;IngestionEndpoint=https://eu.example/;LiveEndpoint=https://live.example/";
        let found = check(&[(CONNECTION_STRING, text)]).unwrap().app_insights.unwrap();
        assert_eq!((found.endpoint.as_str(), found.with_identity), ("https://eu.example/", false));
        assert_eq!(found.key.expose_secret(), "k");
        let aad =
            [(CONNECTION_STRING, "instrumentationkey=k"), (AUTHENTICATION, "Authorization=AAD;ClientId=c")];
        let ours = |client| check(&[aad[0], aad[1], ("AZURE_CLIENT_ID", client)]);
        let problems = ours("other").unwrap_err().0;
        assert!(problems[0].contains("identity c, and AZURE_CLIENT_ID `other`"), "{problems:?}");
        let found = ours("C").unwrap().app_insights.unwrap();
        assert_eq!((found.endpoint.as_str(), found.with_identity), (INGESTION, true));
        assert_eq!(found.audience, AUDIENCE);
    }

    #[test]
    fn telemetry_leaves_the_machine_by_tls_only() {
        for values in [
            (OTLP, "http://example.com:4318"),
            (OTLP, "4318"),
            (CONNECTION_STRING, "IngestionEndpoint=https://eu.example/"),
            (CONNECTION_STRING, "InstrumentationKey=secret;IngestionEndpoint=http://example.com/"),
        ] {
            let problems = check(&[values]).unwrap_err().0;
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains("http only on loopback") && !problems[0].contains("secret"));
        }
        let otlp = check(&[(OTLP, "http://127.0.0.1:4318")]).unwrap().otlp.unwrap();
        assert_eq!(otlp.port(), Some(4318));
    }
}
