//! The optimizer's arithmetic on all parameters in one launch: their pieces are rows of a table of addresses.

use candle_core::{Device, Result, Tensor, bail};

use super::fused::run;
use super::plan::Plan;
use crate::optim::Step;

/// Elements of a piece: one block of threads works on it.
const PIECE: usize = 1 << 14;
/// Results start at multiples of so many elements.
const ALIGNMENT: usize = 4;
/// The highest bit of a row's last number: the parameter decays.
const DECAYS: u64 = 1 << 63;

/// Operands of one parameter; those that are not used repeat another.
pub(crate) struct Item {
    pub(crate) operands: [Tensor; 4],
    pub(crate) decays: bool,
}

/// Where an item's results lie: first element, elements.
type Place = (usize, usize);

/// The table, and the place of every item in the outputs.
fn table(items: &[Item]) -> Result<(Tensor, Vec<Place>)> {
    let Some(first) = items.first() else { bail!("no parameters") };
    let (mut rows, mut places, mut end) = (Vec::new(), Vec::with_capacity(items.len()), 0);
    for item in items {
        let count = item.operands[0].elem_count();
        let addresses = item.operands.each_ref().map(address);
        places.push((end, count));
        for start in (0..count).step_by(PIECE) {
            for address in &addresses {
                let address = address.as_ref().map_err(|error| candle_core::Error::Msg(error.to_string()))?;
                rows.push(*address + (start * size_of::<f32>()) as u64);
            }
            rows.push((end + start) as u64);
            rows.push(PIECE.min(count - start) as u64 | if item.decays { DECAYS } else { 0 });
        }
        end += count.next_multiple_of(ALIGNMENT);
    }
    // As 32-bit halves: candle has no tensors of u64.
    let halves: Vec<u32> = rows.iter().flat_map(|row| [*row as u32, (*row >> 32) as u32]).collect();
    let count = halves.len();
    let table = Tensor::from_vec(halves, count, &Device::Cpu)?;
    Ok((table.to_device(first.operands[0].device())?, places))
}

/// Runs `kernel` on all pieces: `outputs` flat tensors, cut into the items' results.
fn each(kernel: &'static str, items: &[Item], outputs: usize, numbers: &[f32]) -> Result<Vec<Vec<Tensor>>> {
    let (table, places) = table(items)?;
    let pieces = table.elem_count() / 12;
    let length = places.last().map_or(0, |(start, count)| (start + count).next_multiple_of(ALIGNMENT));
    let plan = Plan::pieces(kernel, pieces, outputs, length).with_numbers(numbers);
    let flat = run(&plan, &[Some(&table)])?;
    let cut = |flat: &Tensor, item: &Item, place: &Place| {
        flat.narrow(0, place.0, place.1)?.reshape(item.operands[0].shape())
    };
    items
        .iter()
        .zip(&places)
        .map(|(item, place)| flat.iter().map(|flat| cut(flat, item, place)).collect())
        .collect()
}

/// A step of Adam for items of parameter, gradient, mean and mean square: the new parameter, mean and mean square of each.
pub(crate) fn adam(step: Step, items: &[Item]) -> Result<Vec<Vec<Tensor>>> {
    let Step { fresh, fresh_square, rate, root_correction, eps, keep } = step;
    each("adam", items, 3, &[fresh, fresh_square, rate, root_correction, eps, keep])
}

/// `from + weight * (to - from)` for items of from and to.
pub(crate) fn lerp(items: &[Item], weight: f32) -> Result<Vec<Vec<Tensor>>> {
    each("lerp_towards", items, 1, &[weight])
}

/// The address of a contiguous tensor.
fn address(x: &Tensor) -> Result<u64> {
    #[cfg(test)]
    if x.device().is_cpu() {
        return crate::cpu::with_downloaded::<f32, _>(x, |x| Ok(x.as_ptr() as u64));
    }
    #[cfg(feature = "cuda")]
    return super::launch::address(x);
    #[cfg(not(feature = "cuda"))]
    bail!("this build has no kernels for {:?}", x.device())
}
