//! Names of gRPC methods and codes, as labels: only those that we implement.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

/// Labels of a method that no service implements.
const UNKNOWN: (&str, &str) = ("unknown", "unknown");

/// By path.
static METHODS: LazyLock<HashMap<String, (String, String)>> = LazyLock::new(|| {
    let described = [
        llm_dit_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    // They are built in; one that cannot be read would only lose names.
    let files = described.iter().filter_map(|bytes| FileDescriptorSet::decode(*bytes).ok());
    let mut methods = HashMap::new();
    for file in files.flat_map(|set| set.file) {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                let path = format!("/{service_name}/{}", method.name());
                methods.insert(path, (service_name.clone(), method.name().to_owned()));
            }
        }
    }
    methods
});

/// Service and method of a path.
pub(super) fn names(path: &str) -> (&'static str, &'static str) {
    METHODS.get(path).map_or(UNKNOWN, |(service, method)| (service, method))
}

/// A code as gRPC's own libraries write it in metrics.
pub(super) fn code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Codes that are the server's fault, for traces; after OpenTelemetry's conventions.
pub(super) fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_served_has_a_name() {
        assert_eq!(names("/llmdit.v1.Encoder/Encode"), ("llmdit.v1.Encoder", "Encode"));
        assert_eq!(names("/llmdit.v1.Diffusion/Generate"), ("llmdit.v1.Diffusion", "Generate"));
        assert_eq!(names("/grpc.health.v1.Health/Check"), ("grpc.health.v1.Health", "Check"));
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(names(reflection).1, "ServerReflectionInfo");
        for path in ["/llmdit.v1.Encoder/Nonsense", "/", "", "/Encode"] {
            assert_eq!(names(path), UNKNOWN, "{path}");
        }
    }
}
