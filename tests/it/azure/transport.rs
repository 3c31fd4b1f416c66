//! A call to Azure ends in time, whatever the service does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use azure_core::http::{Method, Request, Url};
use windlass::azure::transport::{Wire, ask, patient};

use super::doubles::{Answer, Double};
use super::settings;

/// Longest call here.
const WHOLE: Duration = Duration::from_secs(1);
/// After this a call counts as one without an end.
const ENDLESS: Duration = Duration::from_secs(20);

/// Why a question to this address gets no answer.
async fn refusal(address: &str) -> String {
    let settings = settings(&[("WINDLASS_ARM_ENDPOINT", address)]);
    let pipeline = Wire::new(&settings).unwrap().within(WHOLE).pipeline(patient(), None);
    let url: Url = address.parse().unwrap();
    let call = ask(&pipeline, Request::new(Wire::secure(&url), Method::Get));
    let ended = tokio::time::timeout(ENDLESS, call).await.unwrap();
    ended.err().unwrap().to_string()
}

#[tokio::test]
async fn a_service_that_asks_for_minutes_does_not_get_them() {
    for status in [429, 503] {
        let double = Double::start(move |_| -> Answer {
            (status, vec![("retry-after", "300".to_owned())], String::new())
        });
        let said = refusal(&double.address).await;
        assert!(said.contains("no answer within 1 s"), "{said}");
        assert!(double.asked().len() <= 1, "it was asked again too soon");
    }
}

#[tokio::test]
async fn a_body_that_stops_in_the_middle_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = BufReader::new(&stream).lines().map_while(Result::ok);
        assert!(head.take_while(|line| !line.is_empty()).count() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").unwrap();
        // It stays open until the client gives up.
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let said = refusal(&address).await;
    assert!(said.contains("no answer within 1 s"), "{said}");
}
