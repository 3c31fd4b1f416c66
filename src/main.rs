//! The program.

fn main() -> std::process::ExitCode {
    windlass::run::run()
}
