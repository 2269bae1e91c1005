//! Trains on CSV files and writes the anomaly scores of their rows.
//!
//! `score_csv OUT_DIR SEEDS FILE.csv...` reads each file (numbers under a header; a column
//! `label`, if there is one, is left out), trains one forest for each seed from 0 to SEEDS − 1 and
//! writes `OUT_DIR/FILE/SEED.csv`: one score per line, in the order of the rows, without a header.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use linfa::traits::Fit;
use linfa::{DatasetBase, ParamGuard};
use linfa_isolation_forest::IsolationForest;
use ndarray::Array2;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(out), Some(seeds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: score_csv OUT_DIR SEEDS FILE.csv...".into());
    };
    let seeds: u64 = seeds.to_str().ok_or("SEEDS is not a number")?.parse()?;
    for file in arguments.map(PathBuf::from) {
        let records = read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let folder = Path::new(&out).join(file.file_stem().ok_or("a file without a name")?);
        fs::create_dir_all(&folder)?;
        let dataset = DatasetBase::from(records);
        for seed in 0..seeds {
            let forest = IsolationForest::params()
                .seed(seed)
                .check()?
                .fit(&dataset)?;
            let mut text = String::new();
            for score in forest.anomaly_scores(dataset.records())? {
                writeln!(text, "{score}")?;
            }
            fs::write(folder.join(format!("{seed}.csv")), text)?;
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Array2<f32>, Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines
        .next()
        .ok_or("no header")?
        .split(',')
        .map(str::trim)
        .collect();
    let label = header.iter().position(|name| *name == "label");
    let mut values = Vec::new();
    let mut rows = 0;
    for (number, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != header.len() {
            return Err(format!("line {}: {} fields", number + 2, fields.len()).into());
        }
        for (_, field) in fields
            .iter()
            .enumerate()
            .filter(|(column, _)| Some(*column) != label)
        {
            let value = field.trim().parse::<f32>();
            values.push(value.map_err(|error| format!("line {}: {error}", number + 2))?);
        }
        rows += 1;
    }
    Ok(Array2::from_shape_vec(
        (rows, header.len() - usize::from(label.is_some())),
        values,
    )?)
}
