//! Disks that are full or read-only: small file systems of the test's own, where the system lets it mount them.

use super::*;

/// A file system in memory, gone with this value.
struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not allowed, as for anyone but root; the remark says that a test did nothing.
    fn mount(at: &Path, kib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_path_buf()));
        }
        #[expect(clippy::print_stderr, reason = "a skipped check should be seen")]
        {
            eprintln!("skipped: no right to mount a small file system");
        }
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read_only(&self) {
        let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).output().unwrap();
        succeeded(&remounted);
    }

    /// Takes all the space there is.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.path("filler")).unwrap();
        for piece in [1 << 16, 1 << 12, 1] {
            while std::io::Write::write_all(&mut file, &vec![1; piece]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_ends_training_with_what_was_saved_and_it_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk"), 16 << 10) else { return };
    let outdir = disk.path("runs");
    succeeded(&tiny_training(&outdir, "0.016").output().unwrap());
    let run = run_with_state(&outdir);
    disk.fill();
    let output = resumed(&run, "0.064").output().unwrap();
    failed(&output, &[text(&run), "No space left"]);
    assert!(!names(&run).iter().any(|name| name.starts_with(".unfinished")), "{:?}", names(&run));
    let state = nestgen::train::state::list(&run).unwrap().pop().unwrap();
    assert!(nestgen::train::state::load(&state).unwrap().position.cur_nimg >= 16);
    std::fs::remove_file(disk.path("filler")).unwrap();
    succeeded(&resumed(&run, "0.064").output().unwrap());
}

#[test]
fn a_full_disk_ends_packing_sampling_and_scoring_and_leaves_no_halves() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk"), 256) else { return };
    let (set, runs) = (dir.path().join("set"), dir.path().join("runs"));
    images(&set, 40);
    succeeded(&tiny_training(&runs, "0.016").output().unwrap());
    let pack = |name: &str| {
        let mut command = binary();
        command.args(["data", "pack", "--res", "128"]).arg(&set).arg(disk.path(name)).output().unwrap()
    };
    failed(&pack("set.h5"), &["set.h5", "No space left"]);
    let mut sample = binary();
    sample.args(["sample", "-n", "400", "--runs"]).arg(&runs).arg("--outdir").arg(disk.path("drawn"));
    failed(&sample.output().unwrap(), &["drawn", "No space left"]);
    let drawn = names(&disk.path("drawn"));
    assert!(drawn.iter().all(|name| image::open(disk.path("drawn").join(name)).is_ok()), "{drawn:?}");
    std::fs::remove_dir_all(disk.path("drawn")).unwrap();
    let mut sample = binary();
    sample.args(["sample", "-n", "400", "--runs"]).arg(&runs).arg("--npz").arg(disk.path("drawn.npz"));
    failed(&sample.output().unwrap(), &["drawn.npz", "No space left"]);
    disk.fill();
    let mut score = binary();
    score
        .arg("fid")
        .args([&set, &set])
        .args(["--features", "random-v1", "--save-stats"])
        .arg(disk.path("x.npz"));
    failed(&score.output().unwrap(), &["x.npz", "No space left"]);
    assert_eq!(names(&disk.0), ["filler"]);
}

#[test]
fn a_read_only_disk_is_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk"), 256) else { return };
    let (set, runs) = (dir.path().join("set"), dir.path().join("runs"));
    images(&set, 3);
    succeeded(&tiny_training(&runs, "0.016").output().unwrap());
    disk.read_only();
    failed(&tiny_training(&disk.path("runs"), "1000").output().unwrap(), &["runs", "Read-only"]);
    let mut pack = binary();
    pack.args(["data", "pack"]).arg(&set).arg(disk.path("set.h5"));
    failed(&pack.output().unwrap(), &["disk", "ead-only"]);
    let mut sample = binary();
    sample.args(["sample", "-n", "1", "--runs"]).arg(&runs).arg("--outdir").arg(disk.path("drawn"));
    failed(&sample.output().unwrap(), &["drawn", "Read-only"]);
    let mut sample = binary();
    sample.args(["sample", "-n", "1", "--runs"]).arg(&runs).arg("--npz").arg(disk.path("drawn.npz"));
    failed(&sample.output().unwrap(), &["disk", "ead-only"]);
}
