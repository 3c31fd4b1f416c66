#!/bin/sh
# Fills public/ from pages/: each page gets the same head and foot.
set -eu
mkdir -p public
for page in pages/*.html; do
    name=$(basename "$page")
    echo "building $name"
    cat head.html "$page" foot.html > "public/$name"
done
