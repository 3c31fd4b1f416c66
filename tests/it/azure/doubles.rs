//! A small web server whose answers a test makes, and which keeps what it was asked.

use std::sync::{Arc, Mutex};

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};

/// Largest body.
const MOST_BYTES: usize = 16 << 20;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Status, headers and body.
pub(crate) type Answer = (u16, Vec<(&'static str, String)>, String);

type Answers = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

/// A server that ends with the test.
pub(crate) struct Double {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

struct State {
    answers: Answers,
    asked: Arc<Mutex<Vec<Asked>>>,
}

async fn answer(request: HttpRequest, body: Bytes, state: Data<State>) -> HttpResponse {
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap_or("").to_owned()));
    let asked = Asked {
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query: request.query_string().to_owned(),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let (status, headers, body) = (state.answers)(&asked);
    state.asked.lock().unwrap().push(asked);
    let mut answer = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        answer.insert_header((name, value));
    }
    answer.body(body)
}

impl Double {
    pub(crate) fn start(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let state = Data::new(State { answers: Arc::new(answers), asked: Arc::clone(&asked) });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let server = HttpServer::new(move || {
            let service = App::new().app_data(Data::clone(&state)).app_data(PayloadConfig::new(MOST_BYTES));
            service.default_service(actix_web::web::to(answer))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        drop(windlass::ambient::spawn(server));
        Self { address, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}
