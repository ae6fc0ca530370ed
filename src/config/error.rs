//! What is wrong with a member's configuration: every problem, where it stands, and what to do.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The file, with the line counted from 1 where it is known.
    File(Option<usize>),
    /// A variable of the environment.
    Environment(String),
    /// It is given nowhere.
    Missing,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, such as `listen.peers`; empty when the problem is the file's.
    pub key: String,
    /// Line in the file, counted from 1; `None` when it stands nowhere in the file.
    pub line: Option<usize>,
    /// The environment's variable, if the value came from there.
    pub variable: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn new(key: &str, source: &Source, message: impl Into<String>) -> Self {
        let (line, variable) = match source {
            Source::File(line) => (*line, None),
            Source::Environment(variable) => (None, Some(variable.clone())),
            Source::Missing => (None, None),
        };
        Self { key: key.to_owned(), line, variable, message: message.into() }
    }
}

/// A configuration that can't be used; nothing was started. Shows every problem on its own line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigErrors {
    /// The member's file.
    pub file: PathBuf,
    /// At least one, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match (&problem.variable, problem.line) {
                (Some(variable), _) => write!(f, "environment {variable}: ")?,
                (None, Some(line)) => write!(f, "{}:{line}: ", self.file.display())?,
                (None, None) => write!(f, "{}: ", self.file.display())?,
            }
            if !problem.key.is_empty() {
                write!(f, "`{}`: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
