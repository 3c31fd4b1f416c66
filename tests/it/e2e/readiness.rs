//! What a load balancer hears while the service stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::Request;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use windlass::ambient::{Clock as _, Ids as _, SystemClock, SystemIds, after, spawn};
use windlass::config::Settings;
use windlass::embedded::upstream::empty;
use windlass::serve::{Extras, start};
use windlass::workflow::chain::{Chain, Context, Next, Place, Step, StepError, StepName};
use windlass::workflow::journal::RunId;
use windlass::workflow::retry::RetryPolicy;

use super::{PATIENCE, parsed, until};

/// A step that has begun and goes on until it is let go.
struct Long {
    begun: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

#[async_trait]
impl Step for Long {
    async fn run(&self, _cx: &Context<'_>) -> Result<Next, StepError> {
        self.begun.add_permits(1);
        drop(self.go.acquire().await.unwrap());
        Ok(Next::Done(Value::Null))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stops_is_not_ready_while_it_ends_what_it_began() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let values = [("WINDLASS_DATA_DIR", data), ("WINDLASS_PORT", "0"), ("WINDLASS_APPS_PORT", "0")];
    let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Settings::from_values(&BTreeMap::from(values)).unwrap();
    let (begun, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let place = Place {
        name: StepName::from("long".to_owned()),
        function: "step-build",
        retry: RetryPolicy::DEFAULT,
        step: Arc::new(Long { begun: Arc::clone(&begun), go: Arc::clone(&go) }),
    };
    let chain = Chain { name: "long", version: 1, steps: vec![place], cleanup: None, observer: None };
    let service = start(&settings, Extras { chains: vec![chain] }).await.unwrap();
    let (pool, api) = (service.pool.clone(), service.api);
    let ready = async || {
        let asked = Request::get("/ready").header("host", api.to_string()).body(empty()).unwrap();
        let (status, body) = parsed(&pool.fetch(api, asked).await.ok()?);
        Some((status, body["status"].clone()))
    };
    assert_eq!(ready().await, Some((200, json!("ready"))));

    let (engine, now) = (service.windlass.engine.clone(), SystemClock.now());
    let chain = engine.chains.newest("long").cloned().unwrap();
    let run = RunId::new(now, SystemIds.random());
    engine.begin(run, &chain, ("long", None), after(now, PATIENCE)).await.unwrap();
    drop(begun.acquire().await.unwrap());
    let stopped = spawn(service.stop());
    until("it says that it stops", async || ready().await == Some((503, json!("not_ready")))).await;
    go.add_permits(1);
    stopped.await.unwrap();
    assert_eq!(ready().await, None);
}
