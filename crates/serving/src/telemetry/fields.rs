//! A span's fields in a line for people: without those that only a trace needs.

use std::{error::Error, fmt};

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
        if is_for_people(field) {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if is_for_people(field) {
            self.0.record_error(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if is_for_people(field) {
            self.0.record_debug(field, value);
        }
    }
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

    #[test]
    fn lines_for_people_have_the_request_id_and_nothing_of_traces() {
        let page = Page::default();
        let writer = page.clone();
        let lines = layer()
            .with_writer(move || writer.clone())
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(HumanFields);
        tracing::subscriber::with_default(Registry::default().with(lines), || {
            let kind = "server";
            let span = tracing::info_span!("http", request_id = "mine", otel.kind = kind);
            span.in_scope(|| tracing::info!(status = 200, "answered"));
        });
        let page = String::from_utf8(page.0.lock().expect("no panic").clone()).expect("text");
        assert_eq!(page, " INFO http{request_id=\"mine\"}: answered status=200\n");
    }
}
