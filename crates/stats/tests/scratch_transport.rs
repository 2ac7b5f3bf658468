//! scratch
use acclimate_stats::transport::{Sinkhorn, exact, sinkhorn};
use ndarray::{Array1, Array2};
use std::time::Instant;

fn floats(name: &str) -> Vec<f64> {
    std::fs::read(name).unwrap().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn timing() {
    let Ok(folder) = std::env::var("OT_DIR") else { return };
    let a = Array1::from(floats(&format!("{folder}/a")));
    let b = Array1::from(floats(&format!("{folder}/b")));
    let c = Array2::from_shape_vec((a.len(), b.len()), floats(&format!("{folder}/c"))).unwrap();
    for _ in 0..3 {
    let t = Instant::now();
    if let Ok(reg) = std::env::var("OT_REG") {
        let tolerance = std::env::var("OT_TOL").unwrap().parse().unwrap();
        let s = Sinkhorn { reg: reg.parse().unwrap(), tolerance, steps: 100000 };
        let p = sinkhorn(c.view(), a.view(), b.view(), &s).unwrap();
        println!("TIME {} cost {} cert {:?}", t.elapsed().as_secs_f64(), p.cost, p.certificate);
    } else {
        let p = exact(c.view(), a.view(), b.view()).unwrap();
        println!("TIME {} cost {} gap {:e}", t.elapsed().as_secs_f64(), p.cost, p.gap);
    }
    }
}
