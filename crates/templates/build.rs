//! Cargo does not see the files that a macro reads; without this, an edited template would stay out
//! of the binary until something else changed.

fn main() {
    println!("cargo::rerun-if-changed=../../templates/z_image");
}
