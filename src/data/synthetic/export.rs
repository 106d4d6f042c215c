//! Scenes as files: `<folder>/<class>/<index>.png`, and `objects.csv` with the box of each main object in pixels.

use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::{BoundingBox, Scene, class_names};
use crate::error::{Error, Result};

/// Writes the first `count` pictures that `render` makes of `seed` at `res` px. `progress(done, total)` is called from worker threads and may
/// return false to stop.
///
/// # Errors
/// A folder that is not empty or cannot be written, a full disk, no images asked for.
pub fn write_pngs(
    folder: &Path,
    render: impl Fn(u64, u64, usize) -> Scene + Sync,
    seed: u64,
    count: usize,
    res: usize,
    progress: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<()> {
    if count == 0 || res == 0 {
        let message = format!("{count} scenes of {res} px: both numbers must be positive");
        return Err(Error::Usage { message, hint: None });
    }
    if std::fs::read_dir(folder).is_ok_and(|mut items| items.next().is_some()) {
        let message = format!("`{}` is not empty", folder.display());
        return Err(Error::Usage { message, hint: Some("name a new folder; nothing is overwritten".into()) });
    }
    let classes = class_names();
    for class in &classes {
        let path = folder.join(class);
        std::fs::create_dir_all(&path).map_err(Error::io("create", path))?;
    }
    let done = AtomicUsize::new(0);
    let boxes: Vec<(String, BoundingBox)> = (0..count)
        .into_par_iter()
        .map(|index| {
            let scene = render(seed, index as u64, res);
            let name = format!("{}/{index:06}.png", classes[scene.label as usize]);
            let path = folder.join(&name);
            image::save_buffer(&path, &scene.pixels, res as u32, res as u32, image::ColorType::Rgb8).map_err(
                |error| match error {
                    image::ImageError::IoError(source) => Error::io("write", &path)(source),
                    other => Error::Usage { message: format!("`{}`: {other}", path.display()), hint: None },
                },
            )?;
            if !progress(done.fetch_add(1, Ordering::Relaxed) + 1, count) {
                return Err(Error::Usage { message: "stopped while writing scenes".into(), hint: None });
            }
            Ok((name, scene.object))
        })
        .collect::<Result<_>>()?;
    let path = folder.join("objects.csv");
    std::fs::write(&path, object_table(&boxes, res as f32)).map_err(Error::io("write", &path))
}

fn object_table(boxes: &[(String, BoundingBox)], res: f32) -> String {
    let mut table = String::from("file,left,top,right,bottom\n");
    for (name, object) in boxes {
        let [left, top, right, bottom] =
            [object.left, object.top, object.right, object.bottom].map(|share| (share * res).round());
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{name},{left},{top},{right},{bottom}");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use super::*;
    use crate::data::{ImageData, LoadOptions};

    #[test]
    fn written_scenes_read_back_with_their_classes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("scenes");
        write_pngs(&folder, render, 3, 24, 16, &|_, _| true).unwrap();
        let data = ImageData::open(&folder, &LoadOptions::new(16), &|_, _| true).unwrap();
        assert_eq!((data.len(), data.class_names()), (24, &class_names()[..]));
        let mut pixels = vec![0; 16 * 16 * 3];
        data.read(1, &mut pixels).unwrap();
        assert_eq!(pixels, render(3, 12, 16).pixels, "balloon/000012.png is the second by name");
        let table = std::fs::read_to_string(folder.join("objects.csv")).unwrap();
        assert_eq!(table.lines().count(), 25);
        for line in table.lines().skip(1) {
            let (name, corners) = line.split_once(',').unwrap();
            let index: u64 = Path::new(name).file_stem().unwrap().to_str().unwrap().parse().unwrap();
            let object = render(3, index, 16).object;
            let due =
                [object.left, object.top, object.right, object.bottom].map(|share| (share * 16.0).round());
            let corners: Vec<f32> = corners.split(',').map(|number| number.parse().unwrap()).collect();
            assert_eq!(corners, due, "{name}");
        }
        let error = write_pngs(&folder, render, 3, 24, 16, &|_, _| true).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }

    #[test]
    fn an_unwritable_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = write_pngs(&file.join("below"), render, 0, 1, 16, &|_, _| true).unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
