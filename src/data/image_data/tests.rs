//! Image sets in memory and streamed, drawn and in parts.

use nestgen_images::{PackOptions, write_pack};

use super::*;
use crate::data::{Loader, LoaderConfig, synthetic};

fn open(path: &Path, options: &LoadOptions) -> Result<ImageData> {
    ImageData::open(path, options, &|_, _| true)
}

/// A folder of six scenes of 16 px and a pack of it.
fn folder_and_pack(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let folder = dir.join("scenes");
    std::fs::create_dir(&folder).unwrap();
    for i in 0..6 {
        let pixels = synthetic::render(0, i, 16).pixels;
        image::save_buffer(folder.join(format!("{i}.png")), &pixels, 16, 16, image::ColorType::Rgb8).unwrap();
    }
    let pack = dir.join("scenes.h5");
    let set = ImageSet::open(&folder, &OpenOptions::default()).unwrap();
    write_pack(&set, &pack, &PackOptions::default(), &|_, _| true).unwrap();
    (folder, pack)
}

#[test]
fn a_pack_beyond_the_budget_streams_the_same_batches() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, pack) = folder_and_pack(dir.path());
    for res in [16, 8] {
        let small = LoadOptions { memory_budget_bytes: 100, ..LoadOptions::new(res) };
        let in_memory = open(&folder, &LoadOptions::new(res)).unwrap();
        let streamed = open(&pack, &small).unwrap();
        assert!(streamed.is_streamed() && !in_memory.is_streamed());
        let batch = |data| {
            let mut loader = Loader::new(std::sync::Arc::new(data), LoaderConfig::new(5, 1)).unwrap();
            loader.next_batch().unwrap();
            loader.next_batch().unwrap().images.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(batch(streamed), batch(in_memory), "{res} px");
        let refused = open(&folder, &small).err().unwrap();
        assert!(refused.hint().unwrap().contains("data pack"), "{refused}");
    }
}

#[test]
fn a_bad_image_is_named_before_training_starts() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = folder_and_pack(dir.path());
    std::fs::write(folder.join("3.png"), b"not a png").unwrap();
    let error = open(&folder, &LoadOptions::new(8)).err().unwrap();
    assert!(error.to_string().contains("3.png"), "{error}");
}

#[test]
fn held_out_images_are_in_no_other_part() {
    let data = ImageData::synthetic(0, 10, 16, &|_, _| true).unwrap();
    let (rest, held_out) = data.hold_out(3).unwrap();
    let all = |data: &ImageData| -> Vec<(Option<u32>, Vec<u8>)> {
        let read = |i| {
            let mut pixels = vec![0; 16 * 16 * 3];
            data.read(i, &mut pixels).unwrap();
            (data.label(i), pixels)
        };
        (0..data.len()).map(read).collect()
    };
    let (mut parts, mut whole) = ([all(&rest), all(&held_out)].concat(), all(&data));
    assert_eq!((rest.len(), held_out.len()), (7, 3));
    parts.sort();
    whole.sort();
    assert_eq!(parts, whole);
    assert!(rest.digest() != held_out.digest() && rest.digest() != data.digest());
    assert!(data.hold_out(10).is_err());
}

/// Recorded figures: a run that is resumed holds out what it held out before.
#[test]
fn the_held_out_images_stay_the_same() {
    let data = ImageData::synthetic(0, 10, 8, &|_, _| true).unwrap();
    assert_eq!(data.hold_out(3).unwrap().1.part.unwrap(), [1, 2, 3]);
}

#[test]
fn parts_of_a_streamed_draw_are_parts_of_what_was_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let (_, pack) = folder_and_pack(dir.path());
    let options = LoadOptions { max_images: Some(3), memory_budget_bytes: 0, ..LoadOptions::new(16) };
    let drawn = open(&pack, &options).unwrap();
    let (rest, held_out) = drawn.hold_out(1).unwrap();
    let images = |data: &ImageData| -> Vec<Vec<u8>> {
        let read = |i| {
            let mut pixels = vec![0; 16 * 16 * 3];
            data.read(i, &mut pixels).map(|()| pixels)
        };
        (0..data.len()).map(|i| read(i).unwrap()).collect()
    };
    let (mut parts, mut whole) = ([images(&rest), images(&held_out)].concat(), images(&drawn));
    assert_eq!((rest.len(), held_out.len(), drawn.is_streamed()), (2, 1, true));
    parts.sort();
    whole.sort();
    assert_eq!(parts, whole);
}

#[test]
fn some_images_are_drawn_from_all_of_a_sorted_set() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, pack) = folder_and_pack(dir.path());
    let images = |source: &Path, count, memory_budget_bytes| -> Vec<Vec<u8>> {
        let options = LoadOptions { max_images: Some(count), memory_budget_bytes, ..LoadOptions::new(16) };
        let data = open(source, &options).unwrap();
        let read = |i| {
            let mut pixels = vec![0; 16 * 16 * 3];
            data.read(i, &mut pixels).map(|()| pixels)
        };
        assert!(data.len() == count && read(count).is_err());
        (0..count).map(|i| read(i).unwrap()).collect()
    };
    let (three, all) = (images(&folder, 3, 1 << 20), images(&folder, 6, 1 << 20));
    assert!(three[..] != all[..3] && three.iter().all(|image| all.contains(image)));
    assert!(images(&folder, 2, 1 << 20).iter().all(|image| three.contains(image)));
    assert_eq!(images(&pack, 3, 0), three, "streamed");
}
