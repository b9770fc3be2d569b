#!/usr/bin/env python3
"""Writes a PDF of so many megabytes: each page has a paragraph and a picture of one megabyte.

  bench/pdf/large.py 331 large.pdf
"""

import os
import sys


def main():
    pages, path = int(sys.argv[1]), sys.argv[2]
    offsets = []
    with open(path, "wb") as file:

        def write(body):
            offsets.append(file.tell())
            file.write(b"%d 0 obj\n%s\nendobj\n" % (len(offsets), body))

        file.write(b"%PDF-1.7\n")
        write(b"<< /Type /Catalog /Pages 2 0 R >>")
        kids = b" ".join(b"%d 0 R" % (6 + 3 * page) for page in range(pages))
        write(b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, pages))
        write(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
        for page in range(pages):
            pixels = os.urandom(1024) * 1024
            write(
                b"<< /Type /XObject /Subtype /Image /Width 1024 /Height 1024 /ColorSpace /DeviceGray "
                b"/BitsPerComponent 8 /Length %d >>\nstream\n%s\nendstream" % (len(pixels), pixels)
            )
            lines = b" T* ".join(b"(Line %d of page %d says something about salt and lamps.) Tj" % (no, page) for no in range(30))
            content = b"BT /F1 11 Tf 13 TL 72 720 Td %s ET q 300 0 0 200 72 72 cm /Im Do Q" % lines
            write(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
            write(
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources "
                b"<< /Font << /F1 3 0 R >> /XObject << /Im %d 0 R >> >> >>" % (len(offsets), len(offsets) - 1)
            )
        table = file.tell()
        file.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1))
        for offset in offsets:
            file.write(b"%010d 00000 n \n" % offset)
        file.write(b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(offsets) + 1, table))


if __name__ == "__main__":
    main()
