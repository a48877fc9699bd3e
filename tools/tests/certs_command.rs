//! `clustor certs`, run as people run it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use clustor_engine::security::{Placement, PlacementKey, TlsFiles, TlsIdentity};
use clustor_tools::config::NodeConfig;
use serde_json::Value;

fn clustor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clustor"))
        .args(args)
        .output()
        .expect("the clustor binary runs")
}

fn certs(dir: &Path, args: &[&str]) -> Output {
    let dir = dir.display().to_string();
    let mut all = vec!["certs", args[0], "--dir", &dir];
    all.extend(&args[1..]);
    clustor(&all)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn assert_ends(output: &Output, code: i32, words: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "`{words}` in: {text}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn load_placement(dir: &Path) -> Placement {
    let key = fs::read_to_string(dir.join("placement.pub")).unwrap();
    let key = PlacementKey::parse(&key).unwrap();
    Placement::load(&fs::read(dir.join("placement.toml")).unwrap(), &key).unwrap()
}

const DOMAIN: [&str; 2] = ["--trust-domain", "prod.example"];

#[test]
fn a_cluster_is_made_of_which_every_node_can_start() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dev");
    let made = json(&certs(
        &dir,
        &["cluster", "--json", "--client", "kv", "--shards", "3"],
    ));
    assert_eq!(made["configs"].as_array().unwrap().len(), 3);
    assert_eq!(made["warnings"].as_array().unwrap().len(), 0);
    for node in 1..=3u16 {
        let config = NodeConfig::load(&dir.join(format!("node-{node}.toml"))).unwrap();
        let parts = config.load_parts(SystemTime::now()).unwrap();
        assert_eq!(config.node.get(), u64::from(node));
        assert_eq!(parts.listen.port(), 7400 + node);
        assert_eq!(parts.shards, 3);
        assert_eq!(parts.placement.partitions().len(), 16);
        assert_eq!(
            format!("{:032x}", parts.placement.cluster().get()),
            made["cluster"]
        );
        assert_eq!(config.data_dir, dir.join(format!("data-{node}")));
    }
    let domain = made["trust_domain"].as_str().unwrap();
    for (name, id) in [("client-kv", "client/kv"), ("operator-ops", "operator/ops")] {
        let files = TlsFiles {
            ca: dir.join("ca.pem"),
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        let whose = TlsIdentity::load(&files, SystemTime::now()).unwrap();
        assert_eq!(whose.id().to_string(), format!("spiffe://{domain}/{id}"));
    }
    assert_eq!(
        made["operators"][0],
        dir.join("operator-ops.pem").display().to_string()
    );
}

#[test]
fn secrets_are_for_their_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dev");
    json(&certs(&dir, &["cluster", "--json"]));
    assert_eq!(mode(&dir), 0o700);
    for secret in [
        "ca.key",
        "node-1.key",
        "client-dev.key",
        "operator-ops.key",
        "placement.secret",
    ] {
        assert_eq!(mode(&dir.join(secret)), 0o600, "{secret}");
    }
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let secret = text.contains("PRIVATE KEY") || text.contains("secret:");
        assert_eq!(secret, mode(&path) == 0o600, "{}", path.display());
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_is_written_beside_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    fs::write(dir.join("node-2.toml"), "mine").unwrap();
    assert_ends(&certs(dir, &["cluster"]), 1, "node-2.toml: exists");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(dir.join("node-2.toml")).unwrap(), "mine");
    fs::remove_file(dir.join("node-2.toml")).unwrap();
    json(&certs(dir, &["cluster", "--json"]));
    let before = fs::read(dir.join("ca.pem")).unwrap();
    assert_ends(&certs(dir, &["cluster"]), 1, "exists");
    let mut init = vec!["init"];
    init.extend(DOMAIN);
    assert_ends(&certs(dir, &init), 1, "exists");
    assert_eq!(fs::read(dir.join("ca.pem")).unwrap(), before);
}

#[test]
fn an_operators_own_steps_lead_to_a_cluster_too() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let run = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(DOMAIN);
        all.push("--json");
        json(&certs(dir, &all))
    };
    run(&["init"]);
    let node = run(&["node", "--id", "4", "--days", "30"]);
    assert_eq!(node["id"], "spiffe://prod.example/node/4");
    assert_eq!(
        run(&["client", "--name", "kv"])["id"],
        "spiffe://prod.example/client/kv"
    );
    assert_eq!(
        run(&["client", "--operator", "--name", "jane"])["id"],
        "spiffe://prod.example/operator/jane"
    );
    let placement = run(&[
        "placement",
        "--node",
        "4=10.0.0.4:7401/2",
        "--node",
        "5=[fd00::5]:7401/1",
        "--replicas",
        "2",
        "--partitions",
        "3",
    ]);
    assert_eq!(
        placement["warnings"].as_array().unwrap().len(),
        1,
        "{placement}"
    );
    assert_eq!(load_placement(dir).partitions().len(), 3);
    let files = TlsFiles {
        ca: dir.join("ca.pem"),
        certificate: dir.join("node-4.pem"),
        key: dir.join("node-4.key"),
    };
    TlsIdentity::load(&files, SystemTime::now()).unwrap();
    let later = SystemTime::now() + std::time::Duration::from_secs(31 * 86_400);
    let error = TlsIdentity::load(&files, later).unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
}

#[test]
fn who_is_certified_later_belongs_to_the_trust_domain_of_the_placement() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dev");
    assert!(certs(&dir, &["cluster"]).status.success());
    let placement = load_placement(&dir);
    let made = certs(&dir, &["client", "--name", "mae", "--operator", "--json"]);
    let id = format!("spiffe://{}/operator/mae", placement.trust_domain());
    assert_eq!(json(&made)["id"], id);

    // Where none is, it has to be said.
    let bare = home.path().join("bare");
    let mut init = vec!["init"];
    init.extend(DOMAIN);
    assert!(certs(&bare, &init).status.success());
    let refused = certs(&bare, &["client", "--name", "ops"]);
    assert_ends(&refused, 2, "--trust-domain");
}

#[test]
fn a_placement_written_by_hand_is_checked_before_it_is_signed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let with_domain = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(DOMAIN);
        certs(dir, &all)
    };
    assert!(with_domain(&["init"]).status.success());
    let text = dir.join("mine.toml");
    let good = "version = 1\ncluster = \"000000000000000000000000000000ab\"\ntrust_domain = \"prod.example\"\n\
                record_codec = \"binary\"\n[[node]]\nid = 1\naddress = \"10.0.0.1:1\"\nshards = 1\n\
                [[partition]]\nid = \"9\"\nreplicas = [\"1/0\"]\n";
    let path = text.display().to_string();
    for (from, to, code, words) in [
        ("1/0", "2/0", 3, "node 2"),
        ("id = 1", "id = \"1\"", 3, "line 6"),
        ("version = 1", "version = 2", 3, "version 2"),
        ("prod.example", "else.where", 2, "else.where"),
    ] {
        fs::write(&text, good.replacen(from, to, 1)).unwrap();
        assert_ends(&with_domain(&["placement", "--sign", &path]), code, words);
        assert!(!dir.join("placement.toml").exists());
    }
    fs::write(&text, good).unwrap();
    let signed = with_domain(&["placement", "--sign", &path]);
    assert!(signed.status.success(), "{}", stderr(&signed));
    let placement = load_placement(dir);
    assert_eq!(placement.partitions().len(), 1);
    assert!(placement.file().starts_with(good.as_bytes()));
}

#[test]
fn missing_and_exposed_authorities_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let with_domain = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(DOMAIN);
        certs(dir, &all)
    };
    assert_ends(&with_domain(&["node", "--id", "1"]), 3, "ca.pem");
    assert!(with_domain(&["init"]).status.success());
    fs::set_permissions(dir.join("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_ends(&with_domain(&["node", "--id", "1"]), 3, "chmod 600");
    fs::set_permissions(dir.join("ca.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.join("ca.pem"), "no certificate").unwrap();
    assert_ends(&with_domain(&["node", "--id", "1"]), 3, "not a CA's file");
}

#[test]
fn senseless_plans_are_usage_errors_that_write_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("x");
    for (args, words) in [
        (&["cluster", "--nodes", "0"][..], "0"),
        (
            &["cluster", "--nodes", "3", "--replicas", "5"],
            "5 replicas need",
        ),
        (&["cluster", "--listen", "127.0.0.1:65535"], "do not fit"),
        (&["cluster", "--listen", "localhost:1"], "localhost:1"),
        (&["cluster", "--trust-domain", "Upper"], "trust domain"),
        (&["cluster", "--client", "a/b"], "name"),
        (&["cluster", "--days", "0"], "0"),
        (&["init", "--trust-domain", "a b"], "trust domain"),
        (
            &["placement", "--trust-domain", "a", "--node", "1=nowhere/2"],
            "nowhere",
        ),
        (&["placement", "--trust-domain", "a"], "--node"),
    ] {
        assert_ends(&certs(&dir, args), 2, words);
        assert!(!dir.exists(), "{args:?}");
    }
}

#[test]
fn help_shows_examples_limits_and_exit_codes() {
    let help = clustor(&["certs", "--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    for words in [
        "Examples:",
        "Limits:",
        "Exit codes:",
        "clustor certs cluster --dir dev",
    ] {
        assert!(text.contains(words), "{words}");
    }
    let help = clustor(&["--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes:"));
    assert_eq!(clustor(&[]).status.code(), Some(2));
    assert_eq!(clustor(&["--nonsense"]).status.code(), Some(2));
}

#[test]
fn people_are_told_what_was_made_and_what_comes_next() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dev");
    let output = certs(&dir, &["cluster", "--nodes", "2"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("clustor serve --config"), "{text}");
    assert!(text.contains("even number of replicas"), "{text}");
    assert!(text.contains("node-2.toml"), "{text}");
}
