//! The seccomp profiles in `docs/deploy`: one addition to the profile of an engine, and the same
//! rules in the format of Kubernetes.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::read;

/// The SHA-256 of the profile that docs/deploy/README.md names.
const UPSTREAM: &str = "536529b665dd0972c37bfb569f5d4ac8a53592e7b00752bc39ff063ca9864c74";

/// The architectures that the profile for Kubernetes serves, as the profile names them, and as its
/// conditions do.
const ARCHITECTURES: [&str; 5] = [
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
];
const ARCHES: [&str; 5] = ["amd64", "x86", "x32", "arm64", "arm"];

fn parse(name: &str) -> Value {
    serde_json::from_str(&read(name)).unwrap()
}

#[test]
fn the_seccomp_profile_is_dockers_with_one_system_call_more() {
    let text = read("deploy/seccomp.json");
    let profile: Value = serde_json::from_str(&text).unwrap();
    let rules = profile["syscalls"].as_array().unwrap();
    let mut added = rules.last().unwrap().clone();
    added.as_object_mut().unwrap().remove("comment");
    // The lowest bit of the first argument is UFFD_USER_MODE_ONLY.
    let expected = json!({
        "names": ["userfaultfd"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ" }],
    });
    assert_eq!(added, expected);
    // Without the last rule, the text is the original one.
    let (before, rule) = text.rsplit_once(",\n\t\t{\n").unwrap();
    assert!(rule.contains("\"userfaultfd\"") && !before.contains("userfaultfd"));
    let original = format!("{before}\n\t]\n}}");
    let digest = Sha256::digest(original);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, UPSTREAM);
}

/// containerd reads a profile as the OCI runtime specification describes it, without conditions.
#[test]
fn the_seccomp_profile_for_kubernetes_has_the_rules_for_a_container_without_capabilities() {
    let docker = parse("deploy/seccomp.json");
    let applies = |rule: &&Value| {
        let needs_capability = !rule["includes"]["caps"].is_null();
        let arches = rule["includes"]["arches"].as_array();
        let is_served = |arch: &Value| ARCHES.contains(&arch.as_str().unwrap());
        !needs_capability && arches.is_none_or(|arches| arches.iter().any(is_served))
    };
    let plain = |rule: &Value| {
        let fields = ["names", "action", "args", "errnoRet"].into_iter();
        let kept = fields.filter_map(|field| Some((field.to_owned(), rule.get(field)?.clone())));
        Value::Object(kept.collect())
    };
    let rules = docker["syscalls"].as_array().unwrap().iter();
    let rules: Vec<Value> = rules.filter(applies).map(plain).collect();
    let expected = json!({
        "defaultAction": docker["defaultAction"],
        "defaultErrnoRet": docker["defaultErrnoRet"],
        "architectures": ARCHITECTURES,
        "syscalls": rules,
    });
    assert_eq!(parse("deploy/seccomp-kubernetes.json"), expected);
}
