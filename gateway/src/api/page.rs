//! The web page, which is part of the program.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// Nothing from other origins, nothing inline, and no framing. Pictures may come from the page's
/// own scripts (`blob:`, `data:`).
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal $kind:ident $file:literal,)*) => {
        &[$(($path, $kind, include_str!(concat!("../../page/", $file)))),*]
    };
}

/// The files, with what each is.
const FILES: &[(&str, &str, &str)] = files![
    "/" HTML "index.html",
    "/about.js" SCRIPT "about.js",
    "/api.js" SCRIPT "api.js",
    "/app.css" CSS "app.css",
    "/app.js" SCRIPT "app.js",
    "/details.js" SCRIPT "details.js",
    "/dialogs.js" SCRIPT "dialogs.js",
    "/dom.js" SCRIPT "dom.js",
    "/health.js" SCRIPT "health.js",
    "/history.js" SCRIPT "history.js",
    "/icon.svg" SVG "icon.svg",
    "/job.js" SCRIPT "job.js",
    "/key.js" SCRIPT "key.js",
    "/look.js" SCRIPT "look.js",
    "/loras.js" SCRIPT "loras.js",
    "/picture.js" SCRIPT "picture.js",
    "/problems.js" SCRIPT "problems.js",
    "/settings.js" SCRIPT "settings.js",
    "/size.js" SCRIPT "size.js",
    "/source.js" SCRIPT "source.js",
    "/stage.js" SCRIPT "stage.js",
    "/status.js" SCRIPT "status.js",
    "/store.js" SCRIPT "store.js",
    "/templates.js" SCRIPT "templates.js",
    "/theme.js" SCRIPT "theme.js",
    "/tokens.js" SCRIPT "tokens.js",
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
    format!("\"{}\"", HEXLOWER.encode(&digest[..8]))
}

fn known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::FILES;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let there: BTreeSet<String> = fs::read_dir(folder)
            .expect("the page")
            .map(|entry| entry.expect("a file").file_name().into_string().expect("a name"))
            .collect();
        let served = FILES.iter().map(|(path, _, _)| match path.trim_start_matches('/') {
            "" => "index.html".to_owned(),
            name => name.to_owned(),
        });
        assert_eq!(served.collect::<BTreeSet<_>>(), there);
    }
}
