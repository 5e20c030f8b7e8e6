//! A span's fields in a line for people: without those that only a trace needs.

use std::{
    error::Error,
    fmt::{self, Write as _},
};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::{RecordFields, VisitOutput as _},
    fmt::{
        FormatFields,
        format::{DefaultVisitor, Writer},
    },
};

/// As lines look without it.
#[derive(Clone, Copy, Debug)]
pub(super) struct HumanFields;

impl<'a> FormatFields<'a> for HumanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let mut visitor = ForPeople(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct ForPeople<'a>(DefaultVisitor<'a>);

impl Visit for ForPeople<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if is_for_people(field) && field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else if is_for_people(field) {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if is_for_people(field) {
            self.0.record_debug(field, &OneLine(&format_args!("{value}")));
            let mut cause = value.source();
            while let Some(error) = cause {
                self.0.record_debug(field, &OneLine(&format_args!("{error}")));
                cause = error.source();
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if is_for_people(field) {
            self.0.record_debug(field, &OneLine(value));
        }
    }
}

/// A value whose control characters are escaped: what a service or a client wrote can neither begin
/// a line nor change a terminal.
struct OneLine<'a>(&'a dyn fmt::Debug);

impl fmt::Debug for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{:?}", self.0)
    }
}

struct Escape<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(is_line_breaking) {
            let mut chars = part.chars();
            match chars.next_back() {
                Some(last) if is_line_breaking(last) => {
                    self.0.write_str(chars.as_str())?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Control characters, and the separators that some viewers take for the end of a line.
fn is_line_breaking(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}

fn is_for_people(field: &Field) -> bool {
    !field.name().starts_with("otel.")
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{Registry, fmt::layer, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written by the events of `work`.
    fn lines(work: impl FnOnce()) -> String {
        let page = Page::default();
        let writer = page.clone();
        let lines = layer()
            .with_writer(move || writer.clone())
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(HumanFields);
        tracing::subscriber::with_default(Registry::default().with(lines), work);
        String::from_utf8(page.0.lock().expect("no panic").clone()).expect("text")
    }

    #[test]
    fn lines_for_people_have_the_request_id_and_nothing_of_traces() {
        let page = lines(|| {
            let kind = "server";
            let span = tracing::info_span!("http", request_id = "mine", otel.kind = kind);
            span.in_scope(|| tracing::info!(status = 200, "answered"));
        });
        assert_eq!(page, " INFO http{request_id=\"mine\"}: answered status=200\n");
    }

    #[test]
    fn texts_of_others_begin_no_line() {
        let text = "gone\r\n ERROR made up\u{1b}[31m\u{2028}é";
        let escaped = "gone\\r\\n ERROR made up\\u{1b}[31m\\u{2028}é";
        let error = io::Error::other(text);
        let page = lines(|| {
            let span = tracing::info_span!("call", url = %text);
            span.in_scope(|| tracing::info!(%text, ?text, plain = text, "{text}"));
            tracing::info!(error = &error as &dyn Error, "message");
            tracing::info!(message = text);
        });
        assert_eq!(page.lines().count(), 3, "{page}");
        assert!(!page.contains(['\r', '\u{1b}']), "{page}");
        assert_eq!(page.matches(escaped).count(), 7, "{page}");
    }
}
