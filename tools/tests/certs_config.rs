//! A node's config: what is accepted, and that each refusal names file, line, key and what was expected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clustor_tools::certs::{Cluster, ClusterPlan, make_cluster, nodes_in_a_row};
use clustor_tools::config::{CONFIG_KEYS, ConfigError, NodeConfig};
use clustor_wire::ids::NodeId;

const GOOD: &str = r#"# a node
node = 2
data_dir = "data"
listen = "0.0.0.0:7401"
ca = "pki/ca.pem"
certificate = "/etc/node.pem"
key = "node.key"
placement = "placement.toml"
placement_key = "placement.pub"
shards = 2
profile = "throughput"
log_level = "debug"
segment_bytes = 16_777_216
"#;

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(Path::new("/conf/node.toml"), text)
}

fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replacen(from, to, 1))
        .expect_err(to)
        .to_string()
}

#[test]
fn a_config_is_read_with_its_paths_beside_it() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.node, NodeId(2));
    assert_eq!(config.data_dir, PathBuf::from("/conf/data"));
    assert_eq!(config.listen, Some("0.0.0.0:7401".parse().unwrap()));
    assert_eq!(config.tls.ca, PathBuf::from("/conf/pki/ca.pem"));
    assert_eq!(config.tls.certificate, PathBuf::from("/etc/node.pem"));
    assert_eq!(config.shards, Some(2));
    assert_eq!(config.profile, "throughput");
    assert_eq!(config.log_level, "debug");
    assert_eq!(config.segment_bytes, Some(16 << 20));
}

#[test]
fn what_may_be_left_out_has_its_default() {
    let text: String = GOOD
        .lines()
        .filter(|line| {
            !["listen", "shards", "profile", "log_level", "segment_bytes"]
                .iter()
                .any(|key| line.starts_with(key))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let config = parse(&text).unwrap();
    assert_eq!(
        (config.listen, config.shards, config.segment_bytes),
        (None, None, None)
    );
    assert_eq!(
        (config.profile.as_str(), config.log_level.as_str()),
        ("latency", "info")
    );
}

#[test]
fn every_key_that_must_be_there_is_missed_by_name() {
    for key in [
        "node",
        "data_dir",
        "ca",
        "certificate",
        "key",
        "placement",
        "placement_key",
    ] {
        let text: String = GOOD
            .lines()
            .filter(|line| line.split(' ').next() != Some(key))
            .map(|line| format!("{line}\n"))
            .collect();
        let error = parse(&text).unwrap_err().to_string();
        let expected = CONFIG_KEYS
            .iter()
            .find(|(known, _)| *known == key)
            .unwrap()
            .1;
        assert_eq!(
            error,
            format!("/conf/node.toml: key `{key}` is missing: {expected}")
        );
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (typo, nearest) in [
        ("segment_byte", "segment_bytes"),
        ("datadir", "data_dir"),
        ("placement_keys", "placement_key"),
        ("lisen", "listen"),
        ("loglevel", "log_level"),
    ] {
        let error = refusal("shards = 2", &format!("{typo} = 2"));
        assert!(
            error.starts_with(&format!(
                "/conf/node.toml:10: unknown key `{typo}`; the nearest known one is `{nearest}`"
            )),
            "{error}"
        );
    }
}

#[test]
fn a_wrong_value_names_file_line_key_and_what_was_expected() {
    for (from, to, words) in [
        (
            "node = 2",
            "node = -2",
            "node.toml:2: `node` is -2, expected this node's id",
        ),
        ("node = 2", "node = \"2\"", "node.toml:2: `node` is \"2\""),
        (
            "node = 2",
            "node = 2.5",
            "node.toml:2: `node` is of type float",
        ),
        ("\"data\"", "\"\"", "node.toml:3: `data_dir` is \"\""),
        (
            "0.0.0.0:7401",
            "somewhere",
            "node.toml:4: `listen` is \"somewhere\", expected an IP address",
        ),
        (
            "\"pki/ca.pem\"",
            "[\"a\"]",
            "node.toml:5: `ca` is of type array",
        ),
        ("shards = 2", "shards = 0", "node.toml:10: `shards` is 0"),
        (
            "shards = 2",
            "shards = 1025",
            "node.toml:10: `shards` is 1025",
        ),
        ("throughput", "fast", "node.toml:11: `profile` is \"fast\""),
        (
            "\"debug\"",
            "\"loud\"",
            "node.toml:12: `log_level` is \"loud\", expected error, warn",
        ),
        (
            "16_777_216",
            "4095",
            "node.toml:13: `segment_bytes` is 4095",
        ),
        (
            "16_777_216",
            "99999999999999999999",
            "node.toml:13: `segment_bytes`",
        ),
    ] {
        let error = refusal(from, to);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    let error = refusal("listen = ", "listen ");
    assert!(error.starts_with("/conf/node.toml:4: not TOML:"), "{error}");
    let error = refusal("shards = 2", "node = 3");
    assert!(error.contains("node.toml:10"), "{error}");
}

#[test]
fn missing_unreadable_and_huge_configs_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let load = || NodeConfig::load(&path).unwrap_err().to_string();
    assert!(load().contains(&path.display().to_string()));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load().contains("not UTF-8"));
    fs::write(&path, "#".repeat(64 * 1024 + 1)).unwrap();
    assert!(load().contains("longer than 65536"));
}

#[test]
fn the_docs_list_every_key_of_a_config_with_what_it_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let section = docs
        .split("\n## ")
        .find(|part| part.starts_with("A node\n"));
    let rows = section.unwrap().lines().filter_map(|line| {
        let (key, what) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((key, what.strip_suffix(" |")?))
    });
    assert_eq!(rows.collect::<Vec<_>>(), CONFIG_KEYS);
}

#[test]
fn a_written_config_is_read_back() {
    let mut config = NodeConfig::beside(NodeId(7), "throughput", Some(1 << 24));
    config.data_dir = PathBuf::from("a \"quoted\\ dir");
    config.listen = Some("[::1]:9".parse().unwrap());
    let again = NodeConfig::parse(Path::new("node-7.toml"), &config.to_text()).unwrap();
    assert_eq!(again.data_dir, config.data_dir);
    assert_eq!(again.to_text(), config.to_text());
}

fn cluster(dir: &Path) -> Cluster {
    make_cluster(&ClusterPlan {
        dir: dir.to_owned(),
        trust_domain: None,
        nodes: nodes_in_a_row(3, "127.0.0.1:7401".parse().unwrap(), 2).unwrap(),
        partitions: 4,
        replicas: 3,
        clients: vec!["dev".to_owned()],
        operators: Vec::new(),
        days: 1,
        profile: "latency".to_owned(),
        segment_bytes: Some(16 << 20),
    })
    .unwrap()
}

fn parts_refusal(config: &NodeConfig) -> String {
    config
        .load_parts(SystemTime::now())
        .unwrap_err()
        .to_string()
}

#[test]
fn parts_that_do_not_belong_together_are_refused_by_key() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = cluster(one.path());
    let other = cluster(two.path());
    let config = NodeConfig::load(&made.configs[&NodeId(1)]).unwrap();
    let parts = config.load_parts(SystemTime::now()).unwrap();
    assert_eq!(parts.profile.segment_bytes, 16 << 20);

    let mut wrong = config.clone();
    wrong.node = NodeId(9);
    assert!(
        parts_refusal(&wrong).contains("`node` is 9, expected a node of the placement: 1, 2, 3")
    );
    let mut wrong = config.clone();
    wrong.shards = Some(5);
    assert!(parts_refusal(&wrong).contains("`shards` is 5, expected 2"));
    let mut wrong = config.clone();
    wrong.placement_key = other.placement_key.clone();
    assert!(
        parts_refusal(&wrong).contains("`placement`:")
            && parts_refusal(&wrong).contains("another key")
    );
    let mut wrong = config.clone();
    wrong.tls.ca = two.path().join("ca.pem");
    assert!(parts_refusal(&wrong).contains("`certificate`: "));
    let mut wrong = config.clone();
    wrong.node = NodeId(2);
    let error = parts_refusal(&wrong);
    assert!(
        error.contains("/node/1") && error.contains("/node/2"),
        "{error}"
    );
    let theirs = NodeConfig::load(&other.configs[&NodeId(1)]).unwrap();
    let mut wrong = config.clone();
    wrong.tls = theirs.tls;
    assert!(parts_refusal(&wrong).contains("expected spiffe://"));
    for (key, change) in [
        (
            "placement",
            (|c: &mut NodeConfig| c.placement = "/none".into()) as fn(&mut NodeConfig),
        ),
        ("placement_key", |c| c.placement_key = "/none".into()),
        ("certificate", |c| c.tls.key = "/none".into()),
        ("profile", |c| c.profile = "/none.toml".to_owned()),
    ] {
        let mut wrong = config.clone();
        change(&mut wrong);
        let error = parts_refusal(&wrong);
        assert!(
            error.contains(&format!("`{key}`")) && error.contains("/none"),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_placement_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let made = cluster(dir.path());
    let config = NodeConfig::load(&made.configs[&NodeId(1)]).unwrap();
    let good = fs::read_to_string(&made.placement).unwrap();
    let unsigned: String = good
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| format!("{l}\n"))
        .collect();
    let cases: BTreeMap<&str, String> = BTreeMap::from([
        ("another key", good.replacen("7401", "7499", 1)),
        ("not signed", unsigned),
        ("is not signed", String::new()),
    ]);
    for (words, text) in cases {
        fs::write(&made.placement, text).unwrap();
        let error = parts_refusal(&config);
        assert!(
            error.contains(words) && error.contains("placement.toml"),
            "{error}"
        );
    }
}
