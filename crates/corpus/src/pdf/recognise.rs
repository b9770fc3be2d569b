//! Text of a picture, by the `tesseract` command.

use std::io::Write;
use std::process::{Command, Stdio};

use super::pdfium::Picture;
use crate::readers::Ocr;
use crate::verdict::{ParseFailure, Verdict};

/// Recognises one page.
pub(super) fn text(ocr: &Ocr, picture: &Picture) -> Result<String, ParseFailure> {
    let header = format!("P5\n{} {}\n255\n", picture.width, picture.height);
    of_image(ocr, &[header.as_bytes(), &picture.pixels])
}

/// Recognises the image whose file consists of these parts. The command inherits the limits of this process; whoever
/// waits for this process waits for both.
pub(crate) fn of_image(ocr: &Ocr, parts: &[&[u8]]) -> Result<String, ParseFailure> {
    let failed = |why: String| ParseFailure::new(Verdict::Failed, format!("tesseract: {why}"));
    let mut command = Command::new(&ocr.tesseract);
    command.args(["stdin", "stdout", "--dpi", "300"]);
    if let Some(language) = &ocr.language {
        command.args(["-l", language]);
    }
    // One page a core: more threads for a page would only get in the way of other files.
    command.env("OMP_THREAD_LIMIT", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    // It reads all of its input before it writes; if it ends early instead, its own words say why.
    let sent = child.stdin.take().map(|mut stdin| parts.iter().try_for_each(|part| stdin.write_all(part)));
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(failed(format!("{}: {last}", output.status)));
    }
    match sent {
        Some(Ok(())) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("it has no stdin".to_owned())),
    }
}
