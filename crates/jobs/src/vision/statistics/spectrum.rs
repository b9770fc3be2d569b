//! Eigenvalues of what passes spread over.

/// Steps for one eigenvalue; more than a few are never needed.
const STEPS_MAX: usize = 64;

/// Eigenvalues of a symmetric matrix, the largest first: Householder's reduction to three diagonals, then implicit QL
/// steps. `matrix` is row by row. None where a value is no number or the steps do not end.
#[must_use]
pub fn eigenvalues(matrix: &[f64], size: usize) -> Option<Vec<f64>> {
    if matrix.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let (mut diagonal, mut beside) = tridiagonal(matrix.to_vec(), size);
    ql(&mut diagonal, &mut beside)?;
    diagonal.sort_by(|a, b| b.total_cmp(a));
    Some(diagonal)
}

/// The diagonal, and what stands beside it: `beside[i]` between `i` and `i + 1`.
fn tridiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    for k in 0..n.saturating_sub(2) {
        let below: f64 = (k + 1..n).map(|row| a[row * n + k] * a[row * n + k]).sum();
        let first = a[(k + 1) * n + k];
        let alpha = -below.sqrt().copysign(first);
        let mut v: Vec<f64> = (k + 1..n).map(|row| a[row * n + k]).collect();
        v[0] -= alpha;
        let length2: f64 = v.iter().map(|x| x * x).sum();
        if length2 <= f64::MIN_POSITIVE {
            continue;
        }
        // The rest becomes H A H with H = I - 2 v v' / |v|^2.
        let rest = n - k - 1;
        let at = |row: usize, column: usize| (row + k + 1) * n + column + k + 1;
        let mut p: Vec<f64> = (0..rest)
            .map(|row| (0..rest).map(|column| a[at(row, column)] * v[column]).sum::<f64>() * 2.0 / length2)
            .collect();
        let along = p.iter().zip(&v).map(|(p, v)| p * v).sum::<f64>() / length2;
        p.iter_mut().zip(&v).for_each(|(p, v)| *p -= along * v);
        for row in 0..rest {
            for column in 0..rest {
                a[at(row, column)] -= v[row] * p[column] + p[row] * v[column];
            }
        }
        a[(k + 1) * n + k] = alpha;
    }
    let diagonal = (0..n).map(|i| a[i * n + i]).collect();
    let beside = (1..n).map(|i| a[i * n + i - 1]).chain([0.0]).collect();
    (diagonal, beside)
}

fn ql(d: &mut [f64], e: &mut [f64]) -> Option<()> {
    let n = d.len();
    for l in 0..n {
        for step in 0.. {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if step == STEPS_MAX {
                return None;
            }
            ql_step(d, e, l, m);
        }
    }
    Some(())
}

/// One implicit step with Wilkinson's shift on the block from `l` to `m`.
fn ql_step(d: &mut [f64], e: &mut [f64], l: usize, m: usize) {
    let half = (d[l + 1] - d[l]) / (2.0 * e[l]);
    let root = half.hypot(1.0);
    let mut g = d[m] - d[l] + e[l] / (half + root.copysign(half));
    let (mut sine, mut cosine, mut p) = (1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let f = sine * e[i];
        let b = cosine * e[i];
        let r = f.hypot(g);
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= p;
            e[m] = 0.0;
            return;
        }
        sine = f / r;
        cosine = g / r;
        g = d[i + 1] - p;
        let turned = (d[i] - g) * sine + 2.0 * cosine * b;
        p = sine * turned;
        d[i + 1] = g + p;
        g = cosine * turned - b;
    }
    d[l] -= p;
    e[l] = g;
    e[m] = 0.0;
}
