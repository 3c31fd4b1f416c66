//! Connection strings as the portal shows them. Only the address in them is used: Windlass signs in with an identity, and
//! a key in a string is said to be unused.

use std::collections::BTreeMap;

use azure_core::base64;

use super::Reader;

/// Fields whose values are secrets.
const SECRETS: [&str; 4] = ["AccountKey", "InstrumentationKey", "SharedAccessKey", "SharedAccessSignature"];
const SERVICE_BUS: &[&str] = &[
    "Endpoint",
    "EntityPath",
    "OperationTimeout",
    "SharedAccessKey",
    "SharedAccessKeyName",
    "SharedAccessSignature",
    "TransportType",
    "UseDevelopmentEmulator",
];
const STORAGE: &[&str] = &[
    "AccountKey",
    "AccountName",
    "BlobEndpoint",
    "DefaultEndpointsProtocol",
    "DevelopmentStorageProxyUri",
    "EndpointSuffix",
    "FileEndpoint",
    "QueueEndpoint",
    "SharedAccessSignature",
    "TableEndpoint",
    "UseDevelopmentStorage",
];
const COSMOS: &[&str] = &["AccountEndpoint", "AccountKey"];
/// Stands where a secret was.
pub(super) const REDACTED: &str = "[redacted]";

/// What the three strings say.
#[derive(Default)]
pub(super) struct Addresses {
    pub(super) service_bus: Option<String>,
    pub(super) blobs: Option<String>,
    pub(super) queues: Option<String>,
    pub(super) cosmos: Option<String>,
    /// Variables with a key that is not used.
    pub(super) unused_keys: Vec<&'static str>,
}

/// The fields of one string.
struct Fields<'a>(BTreeMap<&'static str, &'a str>);

impl<'a> Fields<'a> {
    /// Reads `Name=value;Name=value`. What is wrong is said by the field's name or number, never by its value.
    fn parse(text: &'a str, known: &[&'static str]) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        for (index, part) in text.split(';').enumerate().filter(|(_, part)| !part.trim().is_empty()) {
            let number = index + 1;
            let (name, value) = part.split_once('=').ok_or_else(|| format!("field {number} has no `=`"))?;
            let name = known
                .iter()
                .find(|known| known.eq_ignore_ascii_case(name.trim()))
                .ok_or_else(|| format!("field {number} is none of {}", known.join(", ")))?;
            if value.trim().is_empty() {
                return Err(format!("field `{name}` is empty"));
            }
            if fields.insert(*name, value.trim()).is_some() {
                return Err(format!("field `{name}` is there twice"));
            }
        }
        if fields.get("AccountKey").is_some_and(|key| base64::decode(key).is_err()) {
            return Err("field `AccountKey` is not base64".to_owned());
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    fn needed(&self, name: &str) -> Result<&'a str, String> {
        self.get(name).ok_or_else(|| format!("field `{name}` is missing"))
    }

    fn has_key(&self) -> bool {
        SECRETS.iter().any(|name| self.0.contains_key(name))
    }

    /// The address of the namespace; `sb` is what the portal calls its protocol.
    fn namespace(&self) -> Result<String, String> {
        let endpoint = self.needed("Endpoint")?;
        let host = endpoint.strip_prefix("sb://").or_else(|| endpoint.strip_prefix("https://"));
        let host = host.map(|host| host.trim_end_matches('/')).filter(|host| !host.is_empty());
        host.map(|host| format!("https://{host}/"))
            .ok_or_else(|| "field `Endpoint` is not sb://<namespace>.servicebus.windows.net/".to_owned())
    }

    /// The address of one of the account's services, as the storage documentation makes it from the fields.
    fn storage(&self, field: &str, kind: &str, port: u16) -> Result<String, String> {
        if let Some(endpoint) = self.get(field) {
            return Ok(endpoint.to_owned());
        }
        if self.get("UseDevelopmentStorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(format!("http://127.0.0.1:{port}/devstoreaccount1"));
        }
        let protocol = self.get("DefaultEndpointsProtocol").unwrap_or("https");
        let suffix = self.get("EndpointSuffix").unwrap_or("core.windows.net");
        Ok(format!("{protocol}://{}.{kind}.{suffix}/", self.needed("AccountName")?))
    }
}

/// The string with every secret, and everything that is not understood, left out.
pub(super) fn redacted(text: &str) -> String {
    let plain = |name: &str| {
        [SERVICE_BUS, STORAGE, COSMOS].concat().iter().any(|known| known.eq_ignore_ascii_case(name))
            && !SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(name))
    };
    let part = |part: &str| match part.split_once('=') {
        Some((name, _)) if plain(name.trim()) => part.to_owned(),
        Some((name, _)) if SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(name.trim())) => {
            format!("{name}={REDACTED}")
        }
        None if part.trim().is_empty() => String::new(),
        Some(_) | None => REDACTED.to_owned(),
    };
    text.split(';').map(part).collect::<Vec<_>>().join(";")
}

impl Reader<'_> {
    /// The addresses in the three connection strings; each may also be just the name or host of the service.
    pub(super) fn connection_strings(&mut self) -> Addresses {
        let mut found = Addresses::default();
        if let Some(text) = self.string("AZURE_SERVICE_BUS_CONNECTION_STRING") {
            if text.contains('=') {
                let read =
                    Fields::parse(&text, SERVICE_BUS).and_then(|it| Ok((it.namespace()?, it.has_key())));
                found.service_bus = self.taken("AZURE_SERVICE_BUS_CONNECTION_STRING", read, &mut found);
            } else {
                found.service_bus = Some(text);
            }
        }
        if let Some(text) = self.string("AZURE_STORAGE_CONNECTION_STRING") {
            let read = Fields::parse(&text, STORAGE).and_then(|it| {
                let blobs = it.storage("BlobEndpoint", "blob", 10_000)?;
                Ok(((blobs, it.storage("QueueEndpoint", "queue", 10_001)?), it.has_key()))
            });
            (found.blobs, found.queues) =
                self.taken("AZURE_STORAGE_CONNECTION_STRING", read, &mut found).unzip();
        }
        if let Some(text) = self.string("AZURE_COSMOS_CONNECTION_STRING") {
            let read = Fields::parse(&text, COSMOS)
                .and_then(|it| Ok((it.needed("AccountEndpoint")?.to_owned(), it.has_key())));
            found.cosmos = self.taken("AZURE_COSMOS_CONNECTION_STRING", read, &mut found);
        }
        found
    }

    fn string(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    fn taken<T>(
        &mut self,
        name: &'static str,
        read: Result<(T, bool), String>,
        found: &mut Addresses,
    ) -> Option<T> {
        match read {
            Ok((address, has_key)) => {
                found.unused_keys.extend(has_key.then_some(name));
                Some(address)
            }
            Err(problem) => {
                self.problems.push(format!("{name}: {problem}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUS: &str = "AZURE_SERVICE_BUS_CONNECTION_STRING";
    const STORE: &str = "AZURE_STORAGE_CONNECTION_STRING";
    const DATA: &str = "AZURE_COSMOS_CONNECTION_STRING";

    fn read(values: &[(&str, &str)]) -> (Addresses, Vec<String>) {
        let values: BTreeMap<String, String> =
            values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut reader = Reader { values: &values, problems: Vec::new() };
        let found = reader.connection_strings();
        (found, reader.problems)
    }

    #[test]
    fn the_address_is_taken_and_the_key_is_not() {
        let (found, problems) = read(&[
            (
                BUS,
                "Endpoint=sb://wl.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=canary=",
            ),
            (
                STORE,
                "DefaultEndpointsProtocol=https;AccountName=wl;AccountKey=Y2FuYXJ5;EndpointSuffix=core.windows.net",
            ),
            (DATA, "AccountEndpoint=https://wl.documents.azure.com:443/;AccountKey=Y2FuYXJ5;"),
        ]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(found.service_bus.as_deref(), Some("https://wl.servicebus.windows.net/"));
        assert_eq!(found.blobs.as_deref(), Some("https://wl.blob.core.windows.net/"));
        assert_eq!(found.queues.as_deref(), Some("https://wl.queue.core.windows.net/"));
        assert_eq!(found.cosmos.as_deref(), Some("https://wl.documents.azure.com:443/"));
        assert_eq!(found.unused_keys, [BUS, STORE, DATA]);
    }

    #[test]
    fn a_name_and_the_emulator_are_strings_too() {
        let (found, problems) =
            read(&[(BUS, "wl.servicebus.windows.net"), (STORE, "UseDevelopmentStorage=true")]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(found.service_bus.as_deref(), Some("wl.servicebus.windows.net"));
        assert_eq!(found.blobs.as_deref(), Some("http://127.0.0.1:10000/devstoreaccount1"));
        assert_eq!(found.queues.as_deref(), Some("http://127.0.0.1:10001/devstoreaccount1"));
        assert!(found.unused_keys.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_by_the_field_and_never_by_its_value() {
        for (name, text, says) in [
            (BUS, "SharedAccessKeyName=r;SharedAccessKey=canary", "field `Endpoint` is missing"),
            (BUS, "Endpoint=http://canary/", "field `Endpoint` is not sb://"),
            (BUS, "Endpoint=sb://wl/;canary=1", "field 2 is none of Endpoint"),
            (STORE, "AccountName=wl;AccountKey=canary!", "field `AccountKey` is not base64"),
            (STORE, "AccountName=wl;AccountKey=", "field `AccountKey` is empty"),
            (STORE, "AccountKey=Y2FuYXJ5", "field `AccountName` is missing"),
            (STORE, "AccountName=wl;canary", "field 2 has no `=`"),
            (DATA, "AccountEndpoint=https://a/;accountendpoint=https://canary/", "is there twice"),
            (DATA, "AccountKey=Y2FuYXJ5", "field `AccountEndpoint` is missing"),
        ] {
            let (_, problems) = read(&[(name, text)]);
            assert_eq!(problems.len(), 1, "{text}");
            assert!(problems[0].starts_with(name) && problems[0].contains(says), "{problems:?}");
            assert!(!problems[0].contains("canary") && !problems[0].contains("Y2FuYXJ5"), "{problems:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for (text, shown) in [
            (
                "AccountEndpoint=https://a/;AccountKey=canary==;",
                "AccountEndpoint=https://a/;AccountKey=[redacted];",
            ),
            ("Endpoint=sb://a/;sharedaccesskey=canary", "Endpoint=sb://a/;sharedaccesskey=[redacted]"),
            ("canary", "[redacted]"),
            ("Canary=1", "[redacted]"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }
}
