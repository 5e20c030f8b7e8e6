//! Meaning of a status other than 200.

use std::time::Duration;

use reqwest::{
    StatusCode,
    header::{HeaderMap, LOCATION, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::Value;

use crate::HeylookError;

/// Characters of the server's own words that we pass on.
const MAX_DETAIL: usize = 400;

/// A refusal as it came.
pub(crate) struct Refusal<'a> {
    pub url: &'a str,
    pub key_sent: bool,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

#[derive(Deserialize)]
struct Problem {
    /// Text, or an array of `{"msg", "loc", ...}` when the body had the wrong form.
    detail: Option<Value>,
    /// How the chat endpoints say that they are full.
    error: Option<Value>,
}

impl Refusal<'_> {
    /// The error that this status and body stand for.
    pub fn error(&self) -> HeylookError {
        let (url, status, detail) = (self.url.to_owned(), self.status.as_u16(), self.detail());
        match status {
            300..=399 => {
                let location = self.header(LOCATION.as_str()).unwrap_or("nowhere").to_owned();
                HeylookError::Redirected { url, location }
            }
            400 if detail.contains("not found or disabled") => {
                HeylookError::UnknownModel { url, detail }
            }
            401 | 403 => HeylookError::Unauthorized { url, key_sent: self.key_sent },
            404 | 405 | 501 => HeylookError::NoEndpoint { url, status },
            408 | 504 => {
                let cause = format!("{status}, {detail}");
                HeylookError::Unreachable { url, cause }
            }
            413 => HeylookError::TooLarge { url, detail },
            429 | 503 => {
                let seconds = self.header(RETRY_AFTER.as_str()).and_then(|s| s.parse().ok());
                let retry_after = Duration::from_secs(seconds.unwrap_or(1));
                HeylookError::Busy { url, detail, retry_after }
            }
            500.. => HeylookError::Failed { url, status, detail },
            _ => HeylookError::Refused { url, status, detail },
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The server's words in one line.
    fn detail(&self) -> String {
        let problem = serde_json::from_slice::<Problem>(self.body).ok();
        let said = problem.and_then(|p| match (p.detail, p.error) {
            (Some(Value::String(text)), _) => Some(text),
            (Some(Value::Array(items)), _) => {
                let messages = items.iter().filter_map(|item| item["msg"].as_str());
                Some(messages.collect::<Vec<_>>().join("; "))
            }
            (_, Some(error)) => error["message"].as_str().map(str::to_owned),
            (_, None) => None,
        });
        let words = said.unwrap_or_else(|| String::from_utf8_lossy(self.body).into_owned());
        let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(MAX_DETAIL) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None if line.is_empty() => "it gave no reason".to_owned(),
            None => line,
        }
    }
}

/// The number of layers in "Layer index 4 out of range for model with 4 layers".
pub(crate) fn layers_in(detail: &str) -> Option<usize> {
    let (head, tail) = detail.split_once("out of range for model with ")?;
    head.contains("Layer index").then_some(())?;
    tail.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use llm_dit_fault::Fault;

    use super::*;

    fn error(status: u16, headers: &[(&'static str, &str)], body: &str) -> HeylookError {
        let status = StatusCode::from_u16(status).expect("a status");
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                ((*name).parse().expect("a name"), value.parse().expect("a value"))
            })
            .collect();
        let url = "http://mac:8000";
        Refusal { url, key_sent: true, status, headers: &headers, body: body.as_bytes() }.error()
    }

    #[test]
    fn every_status_becomes_what_the_caller_can_use() {
        let detail = |text: &str| format!("{{\"detail\":\"{text}\"}}");
        let fault = |status, body: &str| Fault::from(error(status, &[], body));
        assert!(
            matches!(fault(418, &detail("short and stout")), Fault::Unsupported(m) if m.contains("stout"))
        );
        assert!(
            matches!(fault(422, &detail("only MLX")), Fault::Unsupported(m) if m.contains("only MLX"))
        );
        assert!(matches!(fault(413, ""), Fault::TooLarge(m) if m.contains("no reason")));
        assert!(
            matches!(fault(404, &detail("Not Found")), Fault::Unsupported(m) if m.contains("December 2025"))
        );
        assert!(matches!(fault(504, "<html>gateway</html>"), Fault::Unavailable(_)));
        let internal = fault(500, &detail("a secret"));
        assert!(matches!(&internal, Fault::Internal(m) if !m.contains("secret")), "{internal}");
        assert!(error(500, &[], &detail("a secret")).to_string().contains("a secret"));

        let busy = r#"{"error":{"message":"queue full","type":"x","code":"model_overloaded"}}"#;
        let busy = Fault::from(error(503, &[("retry-after", "7")], busy));
        assert!(
            matches!(&busy, Fault::Busy { message, retry_after } if message.contains("queue full") && retry_after.as_secs() == 7),
            "{busy:?}"
        );
    }

    #[test]
    fn long_words_are_cut_and_put_into_one_line() {
        let text = error(400, &[], &format!("<html>\n{}</html>", "é ".repeat(5000))).to_string();
        assert!(text.len() < 1200 && !text.contains('\n') && text.ends_with("..."), "{text}");
    }

    #[test]
    fn the_number_of_layers_is_read_from_the_refusal() {
        assert_eq!(layers_in("Layer index -5 out of range for model with 4 layers"), Some(4));
        for other in ["", "Layer index 4", "list index out of range", "out of range for model with"]
        {
            assert_eq!(layers_in(other), None, "{other}");
        }
    }
}
