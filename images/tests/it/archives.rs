//! Archives as programs write them: links, names that come twice, gzip in several members, and what was cut off or damaged.

use std::path::Path;

use nestgen_images::{Error, ImageSet, OpenOptions};

use crate::make;

fn open(path: &Path) -> Result<ImageSet, Error> {
    ImageSet::open(path, &OpenOptions::default())
}

/// Opens `tar` as it is and compressed, and shows both to `look`.
fn both(tar: &[u8], look: impl Fn(&ImageSet)) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.tar", tar.to_vec()), ("a.tar.gz", make::gz(tar))] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        look(&open(&path).unwrap());
    }
}

/// A tar of files, links (kind and target), in this order.
fn tar(items: &[(&str, Result<Vec<u8>, (tar::EntryType, &str)>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, item) in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match item {
            Ok(bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
            }
            Err((kind, target)) => {
                header.set_entry_type(*kind);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn pixels(set: &ImageSet, name: &str) -> Vec<u8> {
    let i = (0..set.len()).find(|&i| set.name(i) == name).unwrap();
    set.read_rgb(i).unwrap().data
}

#[test]
fn links_are_the_images_that_they_lead_to() {
    use tar::EntryType::{Link, Symlink};
    let items = [
        ("set/b/before.png", Err((Symlink, "../a/1.png"))),
        ("set/a/1.png", Ok(make::png(8, 8, 1))),
        ("set/a/2.png", Ok(make::png(8, 8, 2))),
        ("set/a/hard.png", Err((Link, "set/a/2.png"))),
        ("set/b/near.png", Err((Symlink, "before.png"))),
        ("set/b/gone.png", Err((Symlink, "../c/9.png"))),
        ("set/b/away.png", Err((Symlink, "/set/a/1.png.orig"))),
        ("set/b/round.png", Err((Symlink, "round.png"))),
        ("set/b/hard-gone.png", Err((Link, "set/a/9.png"))),
        ("set/b/notes.txt", Err((Symlink, "../a/1.png"))),
    ];
    both(&tar(&items), |set| {
        assert_eq!((set.len(), set.class_names()), (9, &["a".to_owned(), "b".into()][..]));
        for (name, salt) in [("a/1", 1), ("a/2", 2), ("a/hard", 2), ("b/before", 1), ("b/near", 1)] {
            assert_eq!(pixels(set, &format!("set/{name}.png")), make::picture(8, 8, salt).into_raw(), "{name}");
        }
        let bad = nestgen_images::check(set, &|_, _| true).bad;
        let bad: Vec<String> = bad.iter().map(ToString::to_string).collect();
        for (bad, name) in bad.iter().zip(["away", "gone", "hard-gone", "round"]) {
            assert!(bad.contains(&format!("`set/b/{name}.png`: a link to `")), "{bad}");
        }
        assert!(bad.len() == 4 && bad[1].contains("`../c/9.png`, which is no image"), "{bad:?}");
        assert_eq!(set.other_files().count, 1);
    });
}

#[test]
fn of_two_files_of_one_name_the_later_one_counts() {
    let items = [
        ("a.png", Ok(make::png(8, 8, 1))),
        ("b.png", Ok(make::png(8, 8, 2))),
        ("a.png", Ok(make::png(8, 8, 3))),
    ];
    both(&tar(&items), |set| {
        assert_eq!(set.len(), 2);
        assert_eq!(pixels(set, "a.png"), make::picture(8, 8, 3).into_raw());
    });
}

#[test]
fn gzip_may_come_in_several_members_and_end_in_zeros() {
    let whole = make::tar(&[("a/1.png", make::png(8, 8, 1)), ("b/2.png", make::png(8, 8, 2))]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar.gz");
    for cut in [100, 512, whole.len() - 600] {
        let members = [make::gz(&whole[..cut]), make::gz(&whole[cut..]), make::gz(b"")];
        std::fs::write(&path, members.concat()).unwrap();
        assert_eq!(open(&path).unwrap().len(), 2, "cut at {cut}");
        std::fs::write(&path, [members.concat(), vec![0; 5000]].concat()).unwrap();
        assert_eq!(open(&path).unwrap().len(), 2, "cut at {cut}");
        // The first part alone is whole as gzip and cut off as tar.
        std::fs::write(&path, &members[0]).unwrap();
        assert!(open(&path).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_cut_or_damaged_gzip_is_no_smaller_set() {
    let files =
        [("a/1.png", make::png(8, 8, 1)), ("a/2.png", make::png(8, 8, 2)), ("notes.mat", vec![7; 3000])];
    let whole = make::tar(&files);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.tar.gz");
    let refused = |bytes: &[u8], words: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path).err().unwrap_or_else(|| panic!("{words}")).to_string();
        assert!(error.contains("set.tar.gz") && error.contains(words), "{error}");
    };
    for end in (512..whole.len() - 1024).step_by(512) {
        refused(&make::gz(&whole[..end]), "archive");
    }
    let second = whole.windows(7).position(|name| name == b"a/2.png").unwrap();
    refused(&make::gz(&whole[..second]), "does not end as an archive does");
    let packed = make::gz(&whole);
    refused(&packed[..packed.len() - 8], "archive");
    refused(&[&packed[..], b"no gzip, and long enough for a header"].concat(), "gzip");
    // Stored, so that a flipped bit is one of a file's, and the checksum alone tells.
    let mut stored = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut stored, &whole).unwrap();
    let mut stored = stored.finish().unwrap();
    let at = stored.windows(4).position(|name| name == b"IDAT").unwrap();
    stored[at + 6] ^= 1;
    refused(&stored, "checksum");
}

#[test]
fn images_are_known_by_their_ending_and_nobodys_folders_passed_over() {
    let image = |format| make::encode(&make::picture(8, 8, 1).into(), format);
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    let files = [
        ("a.jpeg", image(Jpeg)),
        ("b.jfif", image(Jpeg)),
        ("c.GIF", image(Gif)),
        ("d.tif", image(Tiff)),
        ("e.TIFF", image(Tiff)),
        ("f.WebP", image(WebP)),
        ("g.bmp", image(Bmp)),
        ("h.PnG", image(Png)),
        ("i.JPG", image(Jpeg)),
        ("@eaDir/a.png", image(Png)),
        ("__MACOSX/._a.png", image(Png)),
        ("#recycle/a.png", image(Png)),
        (".cache/a.png", image(Png)),
        (".a.png", image(Png)),
        ("photo.HEIC", vec![1]),
        ("photo.avif", vec![1]),
        ("readme", vec![1]),
        ("png", vec![1]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("set");
    make::write_folder(&root, &files);
    let zip = dir.path().join("a.zip");
    std::fs::write(&zip, make::zip(&files)).unwrap();
    let look = |set: &ImageSet| {
        assert_eq!(set.len(), 9);
        (0..9).for_each(|i| assert_eq!(set.read_rgb(i).unwrap().data.len(), 192, "{}", set.name(i)));
        let others = set.other_files();
        let endings: Vec<&str> = others.endings.iter().map(String::as_str).collect();
        assert_eq!((others.count, &endings[..]), (4, &["avif", "heic"][..]));
    };
    look(&open(&root).unwrap());
    look(&open(&zip).unwrap());
    let plain: Vec<(&str, Result<Vec<u8>, _>)> =
        files.iter().map(|(name, bytes)| (*name, Ok(bytes.clone()))).collect();
    both(&tar(&plain), look);
}

#[cfg(unix)]
#[test]
fn a_folder_under_two_names_counts_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (real, set) = (dir.path().join("real"), dir.path().join("set"));
    make::write_folder(&real, &[("1.png", make::png(8, 8, 1)), ("2.png", make::png(8, 8, 2))]);
    std::fs::create_dir(&set).unwrap();
    for name in ["one", "two"] {
        std::os::unix::fs::symlink(&real, set.join(name)).unwrap();
    }
    assert_eq!(open(&set).unwrap().len(), 4);
}
