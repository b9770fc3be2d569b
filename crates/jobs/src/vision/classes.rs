//! Names of classes as prompts, and how sure a model is which of them an image is of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use haul_encoder::captions::Likeness;

use super::statistics::ambiguity::{entropy, margin, prompt_sensitivity};

/// Bytes of a file that maps folders to names.
const MAP_BYTES_MAX: u64 = 16 << 20;
/// What stands for the name of a class.
const NAME: &str = "{}";

/// Sentences with a place for the name of a class, the first one of which decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

impl Templates {
    /// Those of the study.
    pub const USUAL: &str = "a photo of a {}|a {}|an image of a {}";

    /// The templates.
    #[must_use]
    pub fn sentences(&self) -> &[String] {
        &self.0
    }

    /// The sentences of each template for these names.
    #[must_use]
    pub fn prompts(&self, names: &[String]) -> Vec<Vec<String>> {
        let filled = |template: &String| names.iter().map(|name| template.replace(NAME, name)).collect();
        self.0.iter().map(filled).collect()
    }
}

impl FromStr for Templates {
    type Err = String;

    /// Sentences with `|` between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let templates: Vec<String> =
            text.split('|').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
        match templates.iter().find(|template| !template.contains(NAME)) {
            Some(template) => Err(format!("{template:?} has no {{}} for the name of the class")),
            None if templates.is_empty() => Err("no sentence".to_owned()),
            None => Ok(Self(templates)),
        }
    }
}

/// The classes of a folder of images: its folders, or where it has none, those that the images stand in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Names of the folders, sorted.
    pub folders: Vec<String>,
    /// What each is called in a sentence.
    pub names: Vec<String>,
    /// What the map has names for and no folder is called.
    pub unused: Vec<String>,
}

/// Why there are no classes.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ClassError {
    /// The disk's own.
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A map that is none.
    #[error("{}: {why}", path.display())]
    Map { path: PathBuf, why: String },
    /// Another data set's map: names would be folders' ids, which say nothing to a model.
    #[error("{}: none of its {entries} names is for one of the {folders} folders, such as {example:?}", path.display())]
    OfOthers { path: PathBuf, entries: usize, folders: usize, example: String },
}

impl ClassError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } => None,
            Self::Map { .. } => Some(
                "a map is {\"folder\": \"name\"} as .json, or lines of folder, tab, name in any other file",
            ),
            Self::OfOthers { .. } => Some("give the map of this data set, or none: folders are names then"),
        }
    }
}

impl Classes {
    /// Reads the folders of `root`, and a map of their names where there is one. `images` are what a run takes.
    ///
    /// # Errors
    /// The folder or the map cannot be read, or the map is of other folders.
    pub fn of(root: &Path, images: &[PathBuf], map: Option<&Path>) -> Result<Self, ClassError> {
        let mut folders = folders_of(root)?;
        if folders.is_empty() {
            folders = images.iter().filter_map(|image| named(image.parent()?)).collect();
        }
        let mut map = map.map(|path| read_map(path).map(|map| (path, map))).transpose()?;
        if let Some((path, map)) = &map
            && !folders.iter().any(|folder| map.contains_key(folder))
        {
            let example = folders.first().cloned().unwrap_or_default();
            let (path, entries, folders) = (path.to_path_buf(), map.len(), folders.len());
            return Err(ClassError::OfOthers { path, entries, folders, example });
        }
        let mut name = |folder: &String| {
            let mapped = map.as_mut().and_then(|(_, map)| map.remove(folder));
            mapped.unwrap_or_else(|| folder.replace('_', " "))
        };
        let names = folders.iter().map(&mut name).collect();
        let unused = map.map_or(vec![], |(_, map)| map.into_keys().collect());
        Ok(Self { folders: folders.into_iter().collect(), names, unused })
    }

    /// The class that an image's folder says it is of.
    #[must_use]
    pub fn of_image(&self, image: &Path) -> Option<usize> {
        let is_of = |part: &Path| self.folders.binary_search(&named(part)?).ok();
        image.ancestors().skip(1).find_map(is_of)
    }
}

fn named(folder: &Path) -> Option<String> {
    Some(folder.file_name()?.to_string_lossy().into_owned())
}

fn folders_of(root: &Path) -> Result<BTreeSet<String>, ClassError> {
    let failed = |source| ClassError::Read { path: root.into(), source };
    let mut folders = BTreeSet::new();
    for entry in fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_dir() {
            folders.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(folders)
}

fn read_map(path: &Path) -> Result<BTreeMap<String, String>, ClassError> {
    let failed = |source| ClassError::Read { path: path.into(), source };
    let wrong = |why: String| ClassError::Map { path: path.into(), why };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAP_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAP_BYTES_MAX {
        return Err(wrong(format!("more than {} MiB", MAP_BYTES_MAX >> 20)));
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return serde_json::from_str(&text).map_err(|error| wrong(error.to_string()));
    }
    let mut map = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (folder, name) =
            line.split_once('\t').ok_or_else(|| wrong(format!("line {number}: no tab in {line:?}")))?;
        if let Some(before) = map.insert(folder.to_owned(), name.to_owned()) {
            return Err(wrong(format!("line {number}: {folder:?} is {before:?} already")));
        }
    }
    Ok(map)
}

/// How sure a model is of each image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ambiguity {
    /// By image, of each class, by the first template.
    pub logits: Vec<Vec<f64>>,
    /// A1 of those; none of fewer than two classes.
    pub margin: Vec<f64>,
    /// A2 of those.
    pub entropy: Vec<f64>,
    /// A3 over all templates; 0 of a single one.
    pub prompt_sensitivity: Vec<f64>,
}

impl Ambiguity {
    /// Of features of images and, by template, of classes; neither has to be normalised.
    #[must_use]
    pub fn of(images: &[Vec<f32>], templates: &[Vec<Vec<f32>>], likeness: Likeness) -> Self {
        let texts: Vec<Vec<Vec<f64>>> =
            templates.iter().map(|texts| texts.iter().map(|text| unit(text)).collect()).collect();
        let mut found = Self::default();
        for image in images {
            let image = unit(image);
            let logit = |text: &Vec<f64>| {
                let cosine: f64 = image.iter().zip(text).map(|(a, b)| a * b).sum();
                cosine * f64::from(likeness.scale) + f64::from(likeness.bias)
            };
            let mut by_template: Vec<Vec<f64>> =
                texts.iter().map(|texts| texts.iter().map(logit).collect()).collect();
            let sensitivity = if texts.len() > 1 { prompt_sensitivity(&by_template) } else { 0.0 };
            let first = if by_template.is_empty() { vec![] } else { by_template.swap_remove(0) };
            found.margin.push(margin(&first).unwrap_or(f64::NAN));
            found.entropy.push(entropy(&first));
            found.prompt_sensitivity.push(sensitivity);
            found.logits.push(first);
        }
        found
    }

    /// The likeliest class of each image.
    #[must_use]
    pub fn predicted(&self) -> Vec<usize> {
        let likeliest = |logits: &Vec<f64>| {
            let most = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            most.map_or(0, |(class, _)| class)
        };
        self.logits.iter().map(likeliest).collect()
    }
}

fn unit(row: &[f32]) -> Vec<f64> {
    let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    row.iter().map(|x| f64::from(*x) / length.max(f64::MIN_POSITIVE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_need_a_place_for_the_name() {
        let usual: Templates = Templates::USUAL.parse().unwrap();
        let prompts = usual.prompts(&["tench".to_owned()]);
        assert_eq!(prompts, [["a photo of a tench"], ["a tench"], ["an image of a tench"]]);
        assert!("a photo| a {}".parse::<Templates>().unwrap_err().contains("a photo"));
        assert!(" | ".parse::<Templates>().is_err());
    }

    /// Ids of synsets as names gave prompts that say nothing, until the study mapped them.
    #[test]
    fn folders_are_classes_and_a_map_names_them() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["n02", "n01_tench", "n03"] {
            fs::create_dir(folder.path().join(class)).unwrap();
        }
        let images = [folder.path().join("n02/a.png"), folder.path().join("n03/deeper/b.png")];
        let of = |map: Option<&Path>| Classes::of(folder.path(), &images, map);
        let plain = of(None).unwrap();
        assert_eq!(plain.names, ["n01 tench", "n02", "n03"]);
        assert_eq!(images.each_ref().map(|image| plain.of_image(image)), [Some(1), Some(2)]);

        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let tsv = write("map.tsv", "# ids\nn02\tgoldfish\n\nn09\tgreat white shark\n");
        let mapped = of(Some(&tsv)).unwrap();
        assert_eq!(
            (mapped.names, mapped.unused),
            (vec!["n01 tench".to_owned(), "goldfish".to_owned(), "n03".to_owned()], vec!["n09".to_owned()])
        );
        let json = write("map.json", r#"{"n03": "shark"}"#);
        assert_eq!(of(Some(&json)).unwrap().names[2], "shark");
        for (name, text) in [("a.json", "[]"), ("b.tsv", "n02 goldfish\n"), ("c.tsv", "n90\tbird\n")] {
            let path = write(name, text);
            let error = of(Some(&path)).unwrap_err();
            assert!(error.hint().is_some() && error.to_string().contains(name), "{error}");
        }
        assert!(of(Some(&folder.path().join("none.tsv"))).is_err());
    }

    #[test]
    fn images_in_one_folder_are_of_its_class() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("red_roses");
        fs::create_dir(&root).unwrap();
        let classes = Classes::of(&root, &[root.join("a.png"), root.join("b.png")], None).unwrap();
        assert_eq!(classes.names, ["red roses"]);
        assert_eq!(classes.of_image(&root.join("a.png")), Some(0));
    }

    /// Against numpy: `scale * (i / |i|) @ (t / |t|).T + bias`, softmax, and `var(ddof=1)` over templates of the largest.
    #[test]
    fn logits_are_scaled_cosines() {
        let images = [vec![3.0, 4.0], vec![1.0, 0.0]];
        let templates = [vec![vec![2.0, 0.0], vec![0.0, 5.0]], vec![vec![1.0, 1.0], vec![1.0, -1.0]]];
        let likeness = Likeness { scale: 10.0, bias: -1.0 };
        let found = Ambiguity::of(&images, &templates, likeness);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(near(found.logits[0][0], 5.0) && near(found.logits[0][1], 7.0), "{found:?}");
        assert!(near(found.margin[0], 2.0) && near(found.margin[1], 10.0), "{found:?}");
        assert!(near(found.entropy[0], 0.365_333_7), "{found:?}");
        // The largest shares are 0.880797 and 0.999988; 0.999955 and 0.5.
        assert!(
            near(found.prompt_sensitivity[0], 0.007_103_2) && near(found.prompt_sensitivity[1], 0.124_977_3),
            "{found:?}"
        );
        assert_eq!(found.predicted(), [1, 0]);
        assert_eq!(Ambiguity::of(&images, &templates[..1], likeness).prompt_sensitivity, [0.0, 0.0]);
    }
}
