//! A row of a linear layer's result has the same bits whatever the number of rows, and an image of a convolution's whatever the
//! number of images, at every instruction set: so images do not depend on their batch. In a process of its own, since it compares
//! bits while it changes the instruction set.

use candle_core::{Device, Result, Tensor};
use nestgen_kernels::simd::{self, Level};
use nestgen_kernels::{Activation, Conv2d, Var, conv2d, linear};

fn numbers(rows: usize, columns: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}

fn product(x: &Tensor, w: &Tensor) -> Result<Vec<f32>> {
    let w = Var::constant(w.clone());
    linear(&Var::constant(x.clone()), &w, None, Activation::None)?.value().flatten_all()?.to_vec1()
}

fn convolution(x: &Tensor, w: &Tensor) -> Result<Vec<f32>> {
    let (x, w) = (Var::constant(x.clone()), Var::constant(w.clone()));
    conv2d(&x, &w, None, Conv2d::same(w.dims()[1]), Activation::None)?.value().flatten_all()?.to_vec1()
}

fn check_convolutions(level: Level) -> Result<()> {
    for (size, c_in, c_out, kernel) in [
        (3, 16, 16, 3),
        (4, 16, 32, 3),
        (8, 32, 16, 3),
        (6, 3, 8, 3),
        (5, 8, 40, 3),
        (4, 16, 16, 1),
        (7, 4, 3, 1),
    ] {
        let x = numbers(9 * size * size, c_in)?.reshape((9, size, size, c_in))?;
        let w = numbers(c_out * kernel * kernel, c_in)?.reshape((c_out, kernel, kernel, c_in))?;
        let all = convolution(&x, &w)?;
        for images in [1, 2, 3, 8] {
            let some = convolution(&x.narrow(0, 0, images)?, &w)?;
            let differ = some.iter().zip(&all).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            assert_eq!(
                differ, 0,
                "{images} images of {size} px, {c_in} to {c_out}, kernel {kernel}, {level:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn rows_and_images_do_not_depend_on_how_many_there_are() -> Result<()> {
    for level in [Level::Plain, Level::Avx2, Level::Avx512, Level::Amx] {
        simd::force(level);
        check_convolutions(level)?;
        let shapes = [
            (1, 64),
            (2, 64),
            (3, 16),
            (3, 96),
            (8, 64),
            (16, 16),
            (48, 64),
            (1024, 128),
            (8, 768),
            (48, 768),
            (192, 768),
        ];
        for (c_out, c_in) in shapes {
            let (w, x) = (numbers(c_out, c_in)?, numbers(300, c_in)?);
            let all = product(&x, &w)?;
            for rows in [1, 2, 3, 7, 64, 100, 128, 129, 257] {
                let some = product(&x.narrow(0, 0, rows)?, &w)?;
                let differ = some.iter().zip(&all).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(differ, 0, "{rows} rows of {c_in}, {c_out} channels, {level:?}");
            }
        }
    }
    Ok(())
}
