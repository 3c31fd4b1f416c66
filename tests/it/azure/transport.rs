//! A call to Azure ends in time, whatever the service does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use azure_core::http::{Method, Request, Url};
use jiff::Timestamp;
use windlass::azure::transport::{Answer as Answered, Wire, ask, patient, retry_after};

use super::doubles::{Answer, Double};
use super::settings;

/// Longest call here.
const WHOLE: Duration = Duration::from_secs(1);
/// After this a call counts as one without an end.
const ENDLESS: Duration = Duration::from_secs(20);

/// What becomes of a question to this address.
async fn asked(address: &str) -> azure_core::Result<Answered> {
    let settings = settings(&[("WINDLASS_ARM_ENDPOINT", address)]);
    let pipeline = Wire::new(&settings).unwrap().within(WHOLE).pipeline(patient(), None);
    let url: Url = address.parse().unwrap();
    let call = ask(&pipeline, Request::new(Wire::secure(&url), Method::Get));
    tokio::time::timeout(ENDLESS, call).await.unwrap()
}

/// Why a question to this address gets no answer.
async fn refusal(address: &str) -> String {
    asked(address).await.err().unwrap().to_string()
}

#[tokio::test]
async fn whoever_is_asked_to_wait_for_minutes_hears_of_it_at_once() {
    for status in [429, 503] {
        for wait in ["300", "Tue, 31 Dec 2999 23:59:59 GMT"] {
            let double = Double::start(move |_| -> Answer {
                (status, vec![("retry-after", wait.to_owned())], "why".to_owned())
            });
            let answer = asked(&double.address).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (status, "why"));
            assert!(retry_after(&answer.headers, Timestamp::UNIX_EPOCH) >= Some(Duration::from_secs(300)));
            assert_eq!(double.asked().len(), 1, "it was asked again too soon");
        }
    }
}

#[tokio::test]
async fn a_moment_is_waited_for_within_the_call() {
    let first = AtomicBool::new(true);
    let double = Double::start(move |_| -> Answer {
        let status = if first.swap(false, Ordering::Relaxed) { 429 } else { 200 };
        (status, vec![("retry-after-ms", "1".to_owned()), ("retry-after", "0".to_owned())], String::new())
    });
    assert_eq!(asked(&double.address).await.unwrap().status, 200);
    assert_eq!(double.asked().len(), 2);
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
