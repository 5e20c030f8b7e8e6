//! The web page, which is part of the program.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};

/// Nothing from elsewhere, nothing inline, and nobody may frame it. Pictures may come from the
/// page's own scripts (`blob:`, `data:`).
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The files, with what each is.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("../../page/index.html")),
    ("/app.css", "text/css; charset=utf-8", include_str!("../../page/app.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("../../page/app.js")),
    ("/icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
];

/// Paths that [`serve`] answers.
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, _, _)| *path)
}

/// One of the page's files, or 304 when the browser has it already.
pub(crate) async fn serve(request: Request) -> Response {
    let file = FILES.iter().find(|(path, _, _)| *path == request.uri().path());
    let Some((_, kind, text)) = file else { return StatusCode::NOT_FOUND.into_response() };
    let tag = tag(text);
    let is_known = known(request.headers(), &tag);
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, *kind)], *text).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Asked again every time, which costs a 304.
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

fn tag(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag)
}
