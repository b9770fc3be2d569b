//! PDF files as tests write them.

/// A file as it grows, object by object; the first four are catalogue, page tree, font and information.
pub(crate) struct Pdf {
    objects: Vec<Vec<u8>>,
    pages: Vec<usize>,
    /// More entries of the catalogue.
    pub(crate) catalogue: String,
    /// Entries of the information dictionary.
    pub(crate) information: String,
    /// More entries of the trailer.
    pub(crate) trailer: String,
}

const PAGE_TREE: usize = 2;
const FONT: usize = 3;
const INFORMATION: usize = 4;

impl Pdf {
    pub(crate) fn new() -> Pdf {
        Pdf {
            objects: vec![Vec::new(); INFORMATION],
            pages: Vec::new(),
            catalogue: String::new(),
            information: String::new(),
            trailer: String::new(),
        }
    }

    /// With one page of text for each of `pages`.
    pub(crate) fn of_pages(pages: &[&str]) -> Pdf {
        let mut pdf = Pdf::new();
        for page in pages {
            pdf.page(&text(12.0, &[(72.0, 700.0, page)]));
        }
        pdf
    }

    /// Adds an object and says its number.
    pub(crate) fn object(&mut self, body: impl Into<Vec<u8>>) -> usize {
        self.objects.push(body.into());
        self.objects.len()
    }

    /// Writes an object anew.
    pub(crate) fn replace(&mut self, number: usize, body: &str) {
        self.objects[number - 1] = body.into();
    }

    pub(crate) fn stream(&mut self, entries: &str, data: &[u8]) -> usize {
        let mut body = format!("<< {entries} /Length {} >>\nstream\n", data.len()).into_bytes();
        body.extend_from_slice(data);
        body.extend_from_slice(b"\nendstream");
        self.object(body)
    }

    /// Adds a page with this content and says its number as an object.
    pub(crate) fn page(&mut self, content: &str) -> usize {
        let content = self.stream("", content.as_bytes());
        self.page_with(&format!("/Contents {content} 0 R /Resources << /Font << /F1 {FONT} 0 R >> >>"))
    }

    pub(crate) fn page_with(&mut self, entries: &str) -> usize {
        let body = format!("<< /Type /Page /Parent {PAGE_TREE} 0 R /MediaBox [0 0 612 792] {entries} >>");
        let number = self.object(body);
        self.pages.push(number);
        number
    }

    /// Adds a page that is a picture, in shades of grey.
    pub(crate) fn picture(&mut self, width: usize, height: usize, pixels: &[u8]) -> usize {
        let entries = format!(
            "/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceGray /BitsPerComponent 8"
        );
        let image = self.stream(&entries, pixels);
        let tall = 500 * height / width;
        let content = self.stream("", format!("q 500 0 0 {tall} 56 400 cm /Im1 Do Q").as_bytes());
        self.page_with(&format!("/Contents {content} 0 R /Resources << /XObject << /Im1 {image} 0 R >> >>"))
    }

    /// Adds an outline of (depth, title, page as an object, height on it); what leads nowhere has page 0.
    pub(crate) fn outline(&mut self, entries: &[(usize, &str, usize, f32)]) {
        let root = self.object("");
        let first = root + 1;
        let parent = |index: usize| {
            let above = entries[..index].iter().rposition(|entry| entry.0 < entries[index].0);
            above.map_or(root, |above| first + above)
        };
        for (index, (depth, title, page, top)) in entries.iter().enumerate() {
            let own = parent(index);
            let after = index + 1;
            let next =
                (after..entries.len()).find(|&other| entries[other].0 == *depth && parent(other) == own);
            let child = (after < entries.len() && parent(after) == first + index).then_some(first + after);
            let link =
                |name: &str, to: Option<usize>| to.map_or(String::new(), |to| format!("/{name} {to} 0 R "));
            let dest = match page {
                0 => String::new(),
                page => format!("/Dest [{page} 0 R /XYZ 72 {top} 0] "),
            };
            self.object(format!(
                "<< /Title ({title}) /Parent {own} 0 R {dest}{}{}>>",
                link("Next", next.map(|next| first + next)),
                link("First", child),
            ));
        }
        self.objects[root - 1] =
            format!("<< /Type /Outlines /First {first} 0 R /Last {first} 0 R /Count {} >>", entries.len())
                .into();
        self.catalogue.push_str(&format!(" /Outlines {root} 0 R"));
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let kids: Vec<String> = self.pages.iter().map(|page| format!("{page} 0 R")).collect();
        let count = kids.len();
        let tree = format!("<< /Type /Pages /Kids [{}] /Count {count} >>", kids.join(" "));
        self.finish_with_tree(&tree)
    }

    /// With another page tree than the pages make.
    pub(crate) fn finish_with_tree(&mut self, tree: &str) -> Vec<u8> {
        let catalogue = format!("<< /Type /Catalog /Pages {PAGE_TREE} 0 R{} >>", self.catalogue);
        self.objects[0] = catalogue.into();
        self.objects[PAGE_TREE - 1] = tree.into();
        self.objects[FONT - 1] =
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_vec();
        self.objects[INFORMATION - 1] = format!("<< {} >>", self.information).into();
        let mut file = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec();
        let mut offsets = Vec::new();
        for (index, object) in self.objects.iter().enumerate() {
            offsets.push(file.len());
            file.extend_from_slice(format!("{} 0 obj\n", index + 1).as_bytes());
            file.extend_from_slice(object);
            file.extend_from_slice(b"\nendobj\n");
        }
        let table = file.len();
        let size = offsets.len() + 1;
        file.extend_from_slice(format!("xref\n0 {size}\n0000000000 65535 f \n").as_bytes());
        for offset in offsets {
            file.extend_from_slice(format!("{offset:010} 00000 n \n").as_bytes());
        }
        file.extend_from_slice(
            format!(
                "trailer\n<< /Size {size} /Root 1 0 R /Info {INFORMATION} 0 R{} >>\nstartxref\n{table}\n%%EOF\n",
                self.trailer
            )
            .as_bytes(),
        );
        file
    }
}

/// Content of a page: each text at its place.
pub(crate) fn text(size: f32, lines: &[(f32, f32, &str)]) -> String {
    let mut content = format!("BT /F1 {size} Tf\n");
    for (x, y, line) in lines {
        let line = line.replace('\\', "\\\\").replace('(', "\\(").replace(')', "\\)");
        content.push_str(&format!("1 0 0 1 {x} {y} Tm ({line}) Tj\n"));
    }
    content + "ET\n"
}
