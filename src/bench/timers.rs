//! How late alarms ring: runs that wait, each until a time of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{ThrowAway, at};
use crate::ambient::{Clock as _, Ids as _, SystemClock, SystemIds, after, between};
use crate::config::Settings;
use crate::serve::{Extras, start};
use crate::workflow::chain::{Chain, Context, Next, Place, Step, StepError, StepName};
use crate::workflow::journal::RunId;
use crate::workflow::retry::RetryPolicy;

/// Runs begun at the same time.
const BEGINNERS: u32 = 64;
/// Time to set every alarm before the first may ring.
const SETTING: Duration = Duration::from_secs(20);

/// Waits until the time in the run's subject, then tells how late it is.
struct RingOnce(Arc<Rung>);

#[derive(Default)]
struct Rung {
    late: Mutex<Vec<Duration>>,
    early: Mutex<u32>,
    wake: Notify,
}

#[async_trait]
impl Step for RingOnce {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let due: Timestamp = cx
            .subject
            .parse()
            .map_err(|error: jiff::Error| StepError::permanent("INTERNAL", error.to_string()))?;
        if cx.memo.is_null() {
            return Next::wait(due, &json!(1));
        }
        let now = SystemClock.now();
        if now < due {
            *self.0.early.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.0.late.lock().unwrap_or_else(PoisonError::into_inner).push(between(due, now));
        self.0.wake.notify_one();
        Ok(Next::Done(Value::Null))
    }
}

/// Sets `count` alarms spread over `span` and measures how late they ring.
pub(super) async fn timers(settings: &Settings, count: u32, span: Duration) -> anyhow::Result<Value> {
    let folder = ThrowAway::new()?;
    let rung = Arc::new(Rung::default());
    let step: Arc<dyn Step> = Arc::new(RingOnce(Arc::clone(&rung)));
    let place =
        Place { name: StepName::new("ring"), function: "step-build", retry: RetryPolicy::NEVER, step };
    let chain = Chain { name: "ring", version: 1, steps: vec![place], cleanup: None, observer: None };
    let service = start(&folder.settings(settings), Extras { chains: vec![chain.clone()] }).await?;
    let first = after(SystemClock.now(), SETTING);
    let beginners: Vec<_> = (0..BEGINNERS)
        .map(|beginner| {
            let (engine, chain) = (service.windlass.engine.clone(), chain.clone());
            crate::ambient::spawn(async move {
                for number in (beginner..count).step_by(BEGINNERS as usize) {
                    let due = after(first, span.mul_f64(f64::from(number) / f64::from(count)));
                    let run = RunId::new(SystemClock.now(), SystemIds.random());
                    engine.begin(run, &chain, (&due.to_string(), None), Timestamp::MAX).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for beginner in beginners {
        beginner.await??;
    }
    let set_in = between(first, after(SystemClock.now(), SETTING));
    while rung.late.lock().unwrap_or_else(PoisonError::into_inner).len() < count as usize {
        rung.wake.notified().await;
    }
    service.stop().await;
    let mut late = rung.late.lock().unwrap_or_else(PoisonError::into_inner).clone();
    late.sort_unstable();
    let early = *rung.early.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(json!({
        "alarms": count, "early": early, "late_p50_ms": at(&late, 500), "late_p99_ms": at(&late, 990),
        "late_max_ms": at(&late, 1_000), "set_in_s": set_in.as_secs_f64(),
    }))
}
