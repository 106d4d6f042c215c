//! What many explanations have in common: how often they find the object whose place is known.

use nestgen::explain::localise::{area, center, chance, holds, iou};

use super::One;
use crate::cli::ui;

/// How well boxes, peaks and leaves fit, over the images whose object's place is known and whose class is right.
#[derive(Default)]
pub(super) struct Tally {
    images: usize,
    labelled: usize,
    right: usize,
    measured: usize,
    iou: f64,
    iou_half: usize,
    peaks: usize,
    middles: usize,
    pictures_middles: usize,
    leaves: usize,
    leaf_holds: usize,
    leaf_holds_chance: f64,
    peak_chance: f64,
    middle_chance: f64,
    leaf_chance: f64,
}

impl Tally {
    pub(super) fn add(&mut self, one: &One) {
        self.images += 1;
        self.labelled += usize::from(one.truth.is_some());
        let right = one.truth.is_some() && one.truth == one.answer();
        self.right += usize::from(right);
        let of_truth = one.explained.iter().find(|(e, _)| Some(e.class) == one.truth);
        let (true, Some(given), Some((e, found))) = (right, one.given, of_truth) else { return };
        self.measured += 1;
        let overlap = iou(given, found.bounds);
        self.iou += overlap;
        self.iou_half += usize::from(overlap >= 0.5);
        self.peaks += usize::from(holds(given, e.heat.peak()));
        self.middles += usize::from(holds(given, found.middle));
        self.pictures_middles += usize::from(holds(given, (0.5, 0.5)));
        self.leaf_holds += usize::from(holds(e.traversal.leaf(), center(given)));
        self.leaf_holds_chance += 0.25_f64.powi(e.traversal.nodes.len() as i32);
        self.leaves += usize::from(holds(given, center(e.traversal.leaf())));
        self.peak_chance += chance(given, e.heat.side);
        // The middle may be anywhere, not only at the centre of a place.
        self.middle_chance += area(given);
        self.leaf_chance += chance(given, 1 << e.traversal.nodes.len());
    }

    fn shares(&self) -> [(&'static str, f64); 11] {
        let share = |x: f64| if self.measured > 0 { 100.0 * x / self.measured as f64 } else { 0.0 };
        [
            ("mean_iou", share(self.iou)),
            ("iou_at_least_half", share(self.iou_half as f64)),
            ("cam_peak_in_box", share(self.peaks as f64)),
            ("cam_middle_in_box", share(self.middles as f64)),
            ("cam_peak_by_chance", share(self.peak_chance)),
            ("cam_middle_by_chance", share(self.middle_chance)),
            ("middle_of_picture_in_box", share(self.pictures_middles as f64)),
            ("gradcat_leaf_in_box", share(self.leaves as f64)),
            ("gradcat_leaf_by_chance", share(self.leaf_chance)),
            ("gradcat_leaf_around_middle", share(self.leaf_holds as f64)),
            ("gradcat_leaf_around_middle_by_chance", share(self.leaf_holds_chance)),
        ]
    }

    pub(super) fn json(&self) -> serde_json::Value {
        // Zeros would be results.
        let measured = |value: f64| if self.measured > 0 { value.into() } else { serde_json::Value::Null };
        let shares: serde_json::Map<String, serde_json::Value> =
            self.shares().into_iter().map(|(key, value)| (key.into(), measured(value))).collect();
        serde_json::json!({
            "images": self.images,
            "with_known_class": self.labelled,
            "right": self.right,
            "measured": self.measured,
            "per_cent_of_measured": shares,
        })
    }

    pub(super) fn print(&self) -> std::io::Result<()> {
        if self.labelled > 0 {
            ui::result_line(&format!("right: {} of {} images of known class", self.right, self.labelled))?;
        }
        if self.measured == 0 {
            return Ok(());
        }
        let [
            iou,
            half,
            peak,
            middle,
            peak_chance,
            middle_chance,
            picture,
            leaf,
            leaf_chance,
            around,
            around_chance,
        ] = self.shares().map(|(_, value)| value);
        ui::result_line(&format!("of {} right images with a given box:", self.measured))?;
        ui::result_line(&format!(
            "  GradCAT's leaf holds the box's middle   {around:5.1} %  (by chance {around_chance:.1} %)"
        ))?;
        ui::result_line(&format!(
            "  the leaf's middle in the box            {leaf:5.1} %  (by chance {leaf_chance:.1} %)"
        ))?;
        ui::result_line(&format!(
            "  the middle of the map's part in the box {middle:5.1} %  (by chance {middle_chance:.1} %, the picture's middle {picture:.1} %)"
        ))?;
        ui::result_line(&format!(
            "  the map's peak in the box               {peak:5.1} %  (by chance {peak_chance:.1} %)"
        ))?;
        ui::result_line(&format!(
            "  the map's box                           IoU {:.3} on average, {half:.1} % at least 0.5",
            iou / 100.0
        ))
    }
}

#[cfg(test)]
mod tests {
    use nestgen::data::synthetic::BoundingBox;
    use nestgen::explain::Explanation;
    use nestgen::explain::cam::Heat;
    use nestgen::explain::gradcat::{Node, Traversal};
    use nestgen::explain::localise::HotPart;

    use super::*;
    use crate::cli::classify::sources::Image;

    #[test]
    fn shares_count_what_they_are_called() {
        let part = |left, top, right, bottom| BoundingBox { left, top, right, bottom };
        let root = Node { level: 2, region: part(0.0, 0.0, 1.0, 1.0), values: [0.0; 4], chosen: 3 };
        // The leaf: 0.5 to 0.75 both ways.
        let next = Node { level: 1, region: root.quarter(3), values: [0.0; 4], chosen: 0 };
        // The peak far from the object, the middle of the part on it.
        let mut heat = Heat { side: 4, values: vec![0.0; 16] };
        heat.values[0] = 1.0;
        let traversal = Traversal { class: 1, logit: 0.0, nodes: vec![root, next] };
        let explanation = Explanation { class: 1, probability: 0.9, traversal, heat };
        let found = HotPart { bounds: part(0.55, 0.55, 0.7, 0.75), middle: (0.6, 0.6) };
        let image = Image::at("a.png".into());
        let one = |truth, given| One {
            image: &image,
            bytes: Vec::new(),
            res: 32,
            probabilities: vec![0.1, 0.9],
            truth: Some(truth),
            given: Some(given),
            explained: vec![(explanation.clone(), found)],
        };
        let shares_of = |boxes: &[BoundingBox]| {
            let mut tally = Tally::default();
            boxes.iter().for_each(|given| tally.add(&one(1, *given)));
            // Wrong: counted, not measured.
            tally.add(&one(0, part(0.0, 0.0, 1.0, 1.0)));
            assert_eq!(
                (tally.images, tally.labelled, tally.right),
                (boxes.len() + 1, boxes.len() + 1, boxes.len())
            );
            assert_eq!(tally.measured, boxes.len());
            tally.shares()
        };
        let small = [
            ("mean_iou", 75.0),
            ("iou_at_least_half", 100.0),
            ("cam_peak_in_box", 0.0),
            ("cam_middle_in_box", 100.0),
            ("cam_peak_by_chance", 6.25),
            ("cam_middle_by_chance", 2.25),
            ("middle_of_picture_in_box", 0.0),
            ("gradcat_leaf_in_box", 100.0),
            ("gradcat_leaf_by_chance", 6.25),
            ("gradcat_leaf_around_middle", 100.0),
            ("gradcat_leaf_around_middle_by_chance", 6.25),
        ];
        for ((name, share), (key, due)) in shares_of(&[part(0.55, 0.55, 0.7, 0.7)]).into_iter().zip(small) {
            assert!(name == key && (share - due).abs() < 1e-3, "{name} is {share}, {key} should be {due}");
        }
        // The leaf's centre is in this box, whose own is outside of the leaf.
        let shares = shares_of(&[part(0.6, 0.6, 1.0, 1.0)]);
        let share = |key: &str| shares.iter().find(|(name, _)| *name == key).unwrap().1;
        assert_eq!((share("gradcat_leaf_in_box"), share("gradcat_leaf_around_middle")), (100.0, 0.0));
    }
}
