//! The host policy: recorded mount tables and devices, and what follows from them.

use std::path::{Path, PathBuf};

use clustor_shards::host::{
    BlockDevice, Claim, Clause, DataDir, HostError, HostFacts, Judgement, Outcome, mount_of,
    override_file, parse_overrides,
};

/// A server: root on ext4, data on XFS over LVM, a path with a space, one point mounted over.
const SERVER: &str = "\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
30 22 253:0 / /var/lib rw,noatime shared:30 - xfs /dev/mapper/vg-data rw,attr2,inode64,logbufs=8
31 22 253:1 / /mnt/with\\040space rw,relatime - ext4 /dev/mapper/vg-other rw,nobarrier,data=writeback
32 22 0:40 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw,size=4194304k
33 22 0:44 / /home rw,relatime shared:40 - nfs4 filer:/export/home rw,vers=4.2,hard
34 22 0:46 / /srv/x rw - ext4 /dev/sda1 rw
35 22 0:47 / /srv/x rw - fuse.sshfs me@host:/ rw,user_id=0
36 22 259:3 / /boot ro,relatime - ext4 /dev/nvme0n1p1 rw
short line
37 22 nonsense / /var/lib/clustor rw - ext4 /dev/x rw
";
/// A container: an overlay for a root, a volume on XFS.
const CONTAINER: &str = "\
900 800 0:90 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
901 900 8:16 /volumes/a /data rw,relatime - xfs /dev/sdb rw,inode64
902 900 0:91 / /fast rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,volatile
";

fn judged(path: &str, mountinfo: &str, device: Option<BlockDevice>) -> Judgement {
    let facts = HostFacts {
        path: PathBuf::from(path),
        mount: mount_of(Path::new(path), mountinfo),
        device,
    };
    Judgement::of(facts, &[])
}

fn disk() -> Option<BlockDevice> {
    Some(BlockDevice {
        name: "nvme0n1".to_owned(),
        write_cache: Some("write back".to_owned()),
        fua: Some(true),
        rotational: Some(false),
    })
}

fn clauses(judgement: &Judgement) -> Vec<Clause> {
    judgement.findings.iter().map(|f| f.clause).collect()
}

#[test]
fn the_deepest_mount_counts_and_the_last_at_one_point() {
    let kind = |path: &str| mount_of(Path::new(path), SERVER).expect("mounted").kind;
    assert_eq!(kind("/etc"), "ext4");
    assert_eq!(kind("/var/lib/clustor"), "xfs");
    assert_eq!(kind("/var/libx"), "ext4");
    assert_eq!(kind("/srv/x/y"), "fuse.sshfs");
    let mount = mount_of(Path::new("/mnt/with space/data"), SERVER).expect("mounted");
    assert_eq!(mount.source, "/dev/mapper/vg-other");
    assert_eq!(mount.device, (253, 1));
    assert!(mount.has("nobarrier") && mount.has("rw") && !mount.has("barrier"));
    assert_eq!(mount_of(Path::new("/x"), ""), None);
}

#[test]
fn a_mount_that_another_covers_does_not_count() {
    // ext4 at /m/a/b, then tmpfs at /m/a, and xfs within that; at last something over the root.
    let covered = "\
22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw
40 22 7:0 / /m/a/b rw - btrfs /dev/loop0 rw
41 22 0:50 / /m/a rw - tmpfs tmpfs rw
42 41 7:1 / /m/a/c/d rw - xfs /dev/loop1 rw
43 42 7:2 / /m/a/c/d rw - zfs pool rw
44 22 0:51 / / rw - nfs4 filer:/ rw
45 44 0:52 / /m rw - cifs //filer/m rw
";
    let kind = |path: &str| mount_of(Path::new(path), covered).expect("mounted").kind;
    assert_eq!(kind("/m/a/b"), "tmpfs");
    assert_eq!(kind("/m/a/b/data"), "tmpfs");
    assert_eq!(kind("/m/a/c"), "tmpfs");
    assert_eq!(kind("/m/a/c/d/e"), "zfs", "the last at one point");
    assert_eq!(kind("/m/b"), "ext4");
    assert_eq!(
        kind("/"),
        "ext4",
        "nobody walks through what covers the root"
    );
    // In a root that is no mount's, what it lies on is not listed.
    let jail =
        "50 49 7:0 / /data rw - xfs /dev/loop0 rw\n51 50 7:1 / /data/x rw - ext4 /dev/loop1 rw\n";
    let kind = |path: &str| mount_of(Path::new(path), jail).map(|mount| mount.kind);
    assert_eq!(kind("/data/y").as_deref(), Some("xfs"));
    assert_eq!(kind("/data/x/y").as_deref(), Some("ext4"));
    assert_eq!(kind("/etc"), None);
}

#[test]
fn whatever_keeps_a_flush_from_the_device_is_barriers_off() {
    for (kind, option) in [
        ("ext4", "nobarrier"),
        ("ext4", "barrier=0"),
        ("f2fs", "fsync_mode=nobarrier"),
        ("bcachefs", "journal_flush_disabled"),
    ] {
        let line = |option: &str| format!("22 1 259:2 / / rw - {kind} /dev/sda rw,{option}\n");
        let found = clauses(&judged("/data", &line(option), disk()));
        assert!(found.contains(&Clause::BarriersOff), "{kind} {option}");
        let found = clauses(&judged("/data", &line("lazytime"), disk()));
        assert!(!found.contains(&Clause::BarriersOff), "{kind}");
    }
}

#[test]
fn each_stack_has_its_outcome_and_its_reason() {
    use Clause as C;
    use Outcome as O;
    let cases = [
        ("/var/lib/clustor", SERVER, disk(), O::Allow, vec![]),
        (
            "/var/lib/clustor",
            SERVER,
            None,
            O::Allow,
            vec![C::WriteCacheUnknown],
        ),
        (
            "/mnt/with space",
            SERVER,
            disk(),
            O::Reject,
            vec![C::BarriersOff, C::DataWriteback],
        ),
        ("/tmp/x", SERVER, None, O::Allow, vec![C::InMemory]),
        (
            "/home/me",
            SERVER,
            None,
            O::Quarantine,
            vec![C::NetworkFileSystem],
        ),
        ("/srv/x", SERVER, None, O::Quarantine, vec![C::Fuse]),
        ("/boot", SERVER, disk(), O::Reject, vec![C::ReadOnly]),
        (
            "/proc",
            SERVER,
            None,
            O::Quarantine,
            vec![C::UnknownFileSystem],
        ),
        ("/app", CONTAINER, None, O::Allow, vec![C::Overlay]),
        ("/data", CONTAINER, disk(), O::Allow, vec![]),
        (
            "/fast",
            CONTAINER,
            None,
            O::Reject,
            vec![C::OverlayVolatile, C::Overlay],
        ),
        ("/x", "", None, O::Allow, vec![C::UnknownMount]),
    ];
    for (path, mounts, device, outcome, found) in cases {
        let judgement = judged(path, mounts, device);
        assert_eq!(judgement.outcome(), outcome, "{path}");
        assert_eq!(clauses(&judgement), found, "{path}");
        match (outcome, judgement.admit()) {
            (O::Allow, Ok(None)) => {}
            (O::Quarantine, Ok(Some(why))) => assert!(why.contains(found[0].name()), "{why}"),
            (O::Reject, Err(HostError::Rejected { reason, .. })) => {
                assert!(reason.contains(found[0].name()), "{reason}");
            }
            (_, other) => panic!("{path}: {other:?}"),
        }
    }
    let zram = BlockDevice {
        name: "zram0".to_owned(),
        ..BlockDevice::default()
    };
    let judgement = judged("/etc", SERVER, Some(zram));
    assert_eq!(clauses(&judgement), [Clause::InMemory]);
}

/// 2026-11-27.
const NOW_S: u64 = 20_784 * 86_400 + 7;

fn entry(clause: &str, until: &str) -> String {
    format!("[[allow]]\nclause = \"{clause}\"\nuntil = {until}\nreason = \"tried it\"\n")
}

#[test]
fn an_override_allows_its_clause_and_no_other() {
    let text = entry("network_file_system", "2026-11-27") + &entry("fuse", "2027-02-28");
    let overrides = parse_overrides(&text, NOW_S).expect("good");
    let facts = judged("/home", SERVER, None).facts;
    let judgement = Judgement::of(facts, &overrides);
    assert_eq!(judgement.outcome(), Outcome::Allow);
    let by = judgement.findings[0].allowed_by.as_ref().expect("by name");
    assert_eq!(
        (by.until.as_str(), by.reason.as_str()),
        ("2026-11-27", "tried it")
    );
    assert_eq!(judgement.unneeded.len(), 1);
    assert_eq!(judgement.unneeded[0].clause, Clause::Fuse);
    let facts = judged("/mnt/with space", SERVER, disk()).facts;
    assert_eq!(Judgement::of(facts, &overrides).outcome(), Outcome::Reject);
}

#[test]
fn an_override_that_is_not_right_is_refused_by_name() {
    let cases = [
        (
            entry("network_file_system", "2026-11-26"),
            "entry 1: network_file_system was allowed until 2026-11-26, which has passed",
        ),
        (
            entry("fuse", "2027-11-29"),
            "fuse: 2027-11-29 lies more than 366 days ahead",
        ),
        (
            entry("nfs", "2026-12-01"),
            "no clause is named `nfs`; there are read_only, barriers_off",
        ),
        (
            entry("read_only", "2026-12-01"),
            "read_only can't be allowed",
        ),
        (
            entry("fuse", "\"2026-12-01\""),
            "`until` is missing or no date",
        ),
        (
            "[[allow]]\nclause = \"fuse\"\nuntil = 2026-12-01\n".to_owned(),
            "`reason` is missing",
        ),
        (
            "[[allow]]\nclause = \"fuse\"\nfor = 1\n".to_owned(),
            "unknown key `for`",
        ),
        ("allow = 1\n".to_owned(), "`allow` is no list"),
        ("deny = 1\n".to_owned(), "unknown key `deny`"),
        ("\n[[allow\n".to_owned(), "line 2: not TOML"),
    ];
    for (text, expected) in cases {
        let why = parse_overrides(&text, NOW_S).expect_err(&text);
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn the_facts_of_a_directory_that_is_not_there_yet_are_those_above_it() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("not/yet");
    let judgement = Judgement::gather(&data, NOW_S).expect("judged");
    assert_eq!(
        judgement.facts.path,
        home.path().canonicalize().expect("there")
    );
    assert!(judgement.facts.mount.is_some());

    // An override may lie in a directory before its first start, and one that has expired stops it.
    let fresh = home.path().join("fresh");
    std::fs::create_dir(&fresh).expect("made");
    std::fs::write(override_file(&fresh), entry("fuse", "2026-12-01")).expect("written");
    Judgement::gather(&fresh, NOW_S).expect("judged");
    let later = NOW_S + 30 * 86_400;
    let error = Judgement::gather(&fresh, later).expect_err("expired");
    assert!(
        error
            .to_string()
            .contains("fuse was allowed until 2026-12-01"),
        "{error}"
    );
    DataDir::open(&fresh, Claim::Alone).expect("an override is no stranger");
}
