//! A small web server whose answers a test makes, and which keeps what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use windlass::ambient::{Clock as _, SystemClock};

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
    /// The body as it came.
    pub(crate) bytes: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Status, headers and body.
pub(crate) type Answer = (u16, Vec<(&'static str, String)>, String);

type Answers = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

/// Called before each request is worked on, and once more before its answer leaves.
pub(crate) type Tap = Arc<dyn Fn() + Send + Sync>;

/// What may be changed while a service runs.
#[derive(Clone, Default)]
pub(crate) struct Mood {
    tap: Option<Tap>,
    /// How long each answer takes.
    slow: Duration,
    /// Given to everything that is asked.
    down: Option<Answer>,
}

/// A mood that a test and its service share.
pub(crate) type Moody = Arc<Mutex<Mood>>;

pub(crate) fn watch(moody: &Moody, tap: &Tap) {
    moody.lock().unwrap().tap = Some(Arc::clone(tap));
}

pub(crate) fn slow(moody: &Moody, span: Duration) {
    moody.lock().unwrap().slow = span;
}

/// Everything is answered so; retries may follow at once.
pub(crate) fn down(moody: &Moody, status: u16) {
    let soon = vec![("retry-after-ms", "1".to_owned()), ("x-ms-retry-after-ms", "1".to_owned())];
    moody.lock().unwrap().down = Some((status, soon, String::new()));
}

pub(crate) fn up(moody: &Moody) {
    moody.lock().unwrap().down = None;
}

/// Lets the watcher know, takes the time, and gives the answer when there is only one.
pub(crate) async fn enter(moody: &Moody) -> Option<Answer> {
    let Mood { tap, slow, down } = moody.lock().unwrap().clone();
    if let Some(tap) = tap {
        tap();
    }
    if !slow.is_zero() {
        SystemClock.sleep(slow).await;
    }
    down
}

/// Lets the watcher know that the work is done.
pub(crate) fn leave(moody: &Moody) {
    let tap = moody.lock().unwrap().tap.clone();
    if let Some(tap) = tap {
        tap();
    }
}

/// A server that ends with the test.
pub(crate) struct Double {
    pub(crate) address: String,
    pub(crate) mood: Moody,
    asked: Arc<Mutex<Vec<Asked>>>,
}

struct State {
    answers: Answers,
    mood: Moody,
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
        bytes: body,
    };
    let only = enter(&state.mood).await;
    let (status, headers, body) = only.unwrap_or_else(|| (state.answers)(&asked));
    state.asked.lock().unwrap().push(asked);
    leave(&state.mood);
    let mut answer = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        answer.insert_header((name, value));
    }
    answer.body(body)
}

impl Double {
    pub(crate) fn start(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let mood = Moody::default();
        let (answers, log) = (Arc::new(answers), Arc::clone(&asked));
        let state = Data::new(State { answers, mood: Arc::clone(&mood), asked: log });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let server = HttpServer::new(move || {
            let service = App::new().app_data(Data::clone(&state)).app_data(PayloadConfig::new(MOST_BYTES));
            service.default_service(actix_web::web::to(answer))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        drop(windlass::ambient::spawn(server));
        Self { address, mood, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}
