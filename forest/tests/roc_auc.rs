//! Detection quality: ROC-AUC on a generated set, and on real sets against scikit-learn's.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; the lint knows only the tests themselves"
)]

use std::collections::BTreeMap;
use std::path::Path;

use linfa::ParamGuard;
use linfa_isolation_forest::IsolationForest;

/// Rows one after the other, their width, and whether each is an anomaly.
struct Labelled {
    rows: Vec<f32>,
    width: usize,
    labels: Vec<bool>,
}

impl Labelled {
    /// Anomaly scores of the rows by a forest trained on them, as in section 5 of the paper.
    fn auc(&self, seed: u64) -> f64 {
        let params = IsolationForest::params().seed(seed).check().unwrap();
        let forest = params.fit_rows(&self.rows, self.width).unwrap();
        let mut scores = vec![0.0; self.labels.len()];
        forest.anomaly_scores_into(&self.rows, &mut scores).unwrap();
        roc_auc(&scores, &self.labels)
    }

    /// A CSV of numbers with a header; anomalies have a `label` that is not 0.
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let label = header.iter().position(|name| *name == "label").unwrap();
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for line in lines {
            for (column, field) in line.split(',').enumerate() {
                let value: f32 = field.trim().parse().unwrap();
                if column == label {
                    labels.push(value > 0.0);
                } else {
                    rows.push(value);
                }
            }
        }
        Self {
            rows,
            width: header.len() - 1,
            labels,
        }
    }
}

/// Area under the ROC curve: the share of pairs in the right order, ties counting half.
fn roc_auc(scores: &[f32], labels: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut right, mut below) = (0.0, 0.0);
    for ties in order.chunk_by(|&a, &b| scores[a].to_bits() == scores[b].to_bits()) {
        let positive = ties.iter().filter(|&&i| labels[i]).count() as f64;
        let negative = ties.len() as f64 - positive;
        right += positive * (below + negative / 2.0);
        below += negative;
    }
    right / (below * (labels.len() as f64 - below))
}

#[test]
fn auc_of_known_orders() {
    let labels = [false, true, false, true];
    assert!((roc_auc(&[0.1, 0.2, 0.3, 0.4], &labels) - 0.75).abs() < 1e-12);
    assert!((roc_auc(&[0.5; 4], &labels) - 0.5).abs() < 1e-12);
}

#[test]
fn generated_set() {
    // A ring of 950 rows in the first two of four columns, 50 anomalies at its empty centre and
    // outside of it; the other columns are noise.
    let mut state = 1_u32;
    let mut unit = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for i in 0..1_000 {
        let anomaly = i % 20 == 0;
        let angle = unit() * std::f64::consts::TAU;
        let radius = if anomaly {
            6.0 + 2.0 * unit()
        } else {
            2.0 + unit()
        };
        let values = [radius * angle.cos(), radius * angle.sin(), unit(), unit()];
        rows.extend(values.map(|x| x.to_string().parse::<f32>().unwrap()));
        labels.push(anomaly);
    }
    let set = Labelled {
        rows,
        width: 4,
        labels,
    };
    for seed in 0..5 {
        let auc = set.auc(seed);
        assert!(auc > 0.97, "seed {seed}: {auc}");
    }
}

#[test]
fn as_good_as_scikit_learn() {
    const SEEDS: u64 = 10;
    let Some(folder) = std::env::var_os("VIGIE_DATA").map(|root| Path::new(&root).join("forest"))
    else {
        eprintln!("skipped: VIGIE_DATA is not set");
        return;
    };
    let Ok(reference) = std::fs::read_to_string(folder.join("reference.json")) else {
        eprintln!("skipped: no reference.json in {}", folder.display());
        return;
    };
    let reference: BTreeMap<String, serde_json::Value> = serde_json::from_str(&reference).unwrap();
    let mut failed = Vec::new();
    println!("set             AUC     sd      sklearn sd      diff     allowed");
    for (name, entry) in reference {
        let path = folder.join(format!("{name}.csv"));
        if !path.exists() {
            println!("{name}: no data");
            continue;
        }
        let number = |key: &str| entry[key].as_f64().unwrap();
        let (expected, expected_sd) = (number("sklearn_auc_mean"), number("sklearn_auc_sd"));
        // Three standard errors of the difference of two means of ten.
        let allowed = (3.0 * expected_sd * (2.0 / SEEDS as f64).sqrt()).max(0.01);

        let set = Labelled::read(&path);
        let aucs: Vec<f64> = (0..SEEDS).map(|seed| set.auc(seed)).collect();
        let mean = aucs.iter().sum::<f64>() / SEEDS as f64;
        let variance = aucs.iter().map(|auc| (auc - mean).powi(2)).sum::<f64>();
        let sd = (variance / (SEEDS - 1) as f64).sqrt();
        let difference = mean - expected;
        println!(
            "{name:15} {mean:.4}  {sd:.4}  {expected:.4}  {expected_sd:.4}  {difference:+.4}  {allowed:.4}"
        );
        // Better by more than noise would be another algorithm, too.
        if difference.abs() > allowed {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "not scikit-learn's ROC-AUC: {failed:?}");
}
