//! A GGUF file by its path, or by its name among the places where such files are.

use std::path::{Path, PathBuf};

use haul_generate::discover::{self, Discovery, NameError, Surroundings};
use haul_generate::remote::ServerAddress;

use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// Names that an error lists.
const KNOWN_SHOWN_MAX: usize = 8;

/// The file that is meant. One that was found by its name is said in a line.
pub(crate) fn path(name: &str, settings: &Settings, output: &Output) -> Result<PathBuf, Failure> {
    refuse_server(name)?;
    let path = PathBuf::from(name);
    if path.is_file() {
        return Ok(path);
    }
    let folder = [path.clone(), settings.models().join(name)].into_iter().find(|folder| folder.is_dir());
    let is_name = path.components().count() == 1;
    match named(name, is_name, folder.as_deref(), settings) {
        Ok((path, place)) => {
            output.note(&format!("model: {} ({place})", path.display()));
            Ok(path)
        }
        Err(error) => Err(failure(error, settings)),
    }
}

/// By its name, or as the only file of the folder that was named.
fn named(
    name: &str,
    is_name: bool,
    folder: Option<&Path>,
    settings: &Settings,
) -> Result<(PathBuf, String), NameError> {
    let by_name = if is_name { discover::discover(&settings.surroundings()) } else { Discovery::default() };
    let error = match (by_name.named(name), folder) {
        (Ok(found), _) => return Ok((found.path.clone(), format!("in {}", found.place))),
        (Err(NameError::None { .. }), Some(folder)) => {
            let models = folder.to_owned();
            let files = discover::discover(&Surroundings { models, ..Surroundings::default() }).found;
            match &files[..] {
                [only] => return Ok((only.path.clone(), "the only one of its folder".to_owned())),
                [] => NameError::None { name: name.to_owned(), known: vec![] },
                more => {
                    let paths = more.iter().map(|found| found.path.clone()).collect();
                    NameError::Several { name: name.to_owned(), paths }
                }
            }
        }
        (Err(error), _) => error,
    };
    Err(error)
}

fn failure(error: NameError, settings: &Settings) -> Failure {
    let hint = match &error {
        NameError::None { name, .. } if is_host_and_port(name) => {
            format!("a server is --model http://{name}")
        }
        NameError::None { known, .. } if !known.is_empty() => {
            let shown = known[..known.len().min(KNOWN_SHOWN_MAX)].join(", ");
            let more = if known.len() > KNOWN_SHOWN_MAX { ", ..." } else { "" };
            format!("there are {shown}{more}; `haul model list` says where")
        }
        NameError::None { .. } => {
            format!("give the path of a file, or put it into {}", settings.models().display())
        }
        _ => "name one of them by its path".to_owned(),
    };
    Failure::new(error).hint(hint)
}

/// `HOST:PORT`, perhaps with a path or a model behind it: an address without its beginning.
fn is_host_and_port(name: &str) -> bool {
    let port = name.split_once(':').map(|(_, rest)| rest.split(['/', '#']).next().unwrap_or(rest));
    port.is_some_and(|port| port.parse::<u16>().is_ok())
}

/// What measures or rewrites a model needs its file.
pub(crate) fn refuse_server(name: &str) -> Result<(), Failure> {
    if !ServerAddress::is_one(name) {
        return Ok(());
    }
    Err(Failure::new(format!("{name} is a server, and this command works on a GGUF file of this machine"))
        .hint("`haul generate` and `haul correct` ask servers"))
}
