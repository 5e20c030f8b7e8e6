//! A gateway's answer: a picture, a stream of events that ends with one, or a problem.

use reqwest::{Response, header::CONTENT_TYPE};

use super::{
    answer::{Answer, Problem, Unanswered},
    events,
};
use crate::generate::studio::Report;

/// Reads it to its end, reporting what it tells on the way.
pub(super) async fn read(answer: Response, report: Report<'_>) -> Result<Answer, Unanswered> {
    let status = answer.status();
    if !status.is_success() {
        let body = answer.bytes().await?;
        let detail = serde_json::from_slice::<Problem>(&body).map(|p| p.detail);
        let detail =
            detail.unwrap_or_else(|_| "the response is not from an llm-dit gateway".into());
        return Err(Unanswered::Problem(Some(status.as_u16()), format!("{status}: {detail}")));
    }
    let header =
        |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    if header(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with(events::EVENTS)) {
        return events::read(answer, report).await;
    }
    Ok(Answer {
        seed: header("x-seed").unwrap_or_else(|| "unknown".to_owned()),
        truncated: header("x-truncated-tokens"),
        negative_truncated: header("x-truncated-negative-tokens"),
        png: answer.bytes().await?,
    })
}
