//! Flags made from the table of settings, and what was given with them.

use std::marker::PhantomData;

use clap::{
    Arg, ArgAction, ArgMatches, Command, ValueHint,
    builder::{PossibleValuesParser, ValueParser},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::config::{ConfigError, Group, Kind, Setting};

/// The flags of a group that were given, with their values.
#[derive(Clone, Debug)]
pub struct Flags<G>(Vec<(&'static Setting, String)>, PhantomData<fn() -> G>);

/// A group of flags, as a type.
pub trait FlagGroup {
    /// Whether a setting has its flag here.
    fn has(setting: &Setting) -> bool;

    /// The default in words, for the help.
    fn default(setting: &Setting) -> Option<String> {
        setting.default_text()
    }
}

/// What each workload has for itself: `weir exec`, `run`, `node` and `workload add`.
#[derive(Clone, Copy, Debug)]
pub enum OfWorkload {}

/// Which processes: `weir run` and `workload add`.
#[derive(Clone, Copy, Debug)]
pub(super) enum OfPlace {}

/// The workload's name: `weir run`.
#[derive(Clone, Copy, Debug)]
pub enum OfName {}

/// The instance: `weir run`.
#[derive(Clone, Copy, Debug)]
pub enum OfInstance {}

/// Everything else: `weir exec`, `run` and `node`.
#[derive(Clone, Copy, Debug)]
pub enum OfCapture {}

impl FlagGroup for OfWorkload {
    fn has(setting: &Setting) -> bool {
        setting.group == Group::Workload
    }
}

impl FlagGroup for OfPlace {
    fn has(setting: &Setting) -> bool {
        setting.group == Group::Place
    }
}

impl FlagGroup for OfName {
    fn has(setting: &Setting) -> bool {
        setting.group == Group::Name
    }
}

impl FlagGroup for OfInstance {
    fn has(setting: &Setting) -> bool {
        setting.group == Group::Instance
    }
}

impl FlagGroup for OfCapture {
    fn has(setting: &Setting) -> bool {
        setting.group == Group::Capture
    }
}

// === impl Flags ===

impl<G> Flags<G> {
    /// Whether the flag was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(setting, _)| setting.name == name)
    }

    /// The settings that were given, with their values.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static Setting, &str)> {
        self.0.iter().map(|(setting, text)| (*setting, text.as_str()))
    }

    /// Puts what was given over settings whose lists are resolved.
    ///
    /// # Errors
    /// Where a value does not fit.
    pub fn apply<T: Serialize + DeserializeOwned>(
        &self,
        target: &mut T,
    ) -> Result<(), ConfigError> {
        for (setting, text) in &self.0 {
            setting
                .apply(target, text)
                .map_err(|problem| ConfigError::Value { key: setting.keys[0], problem })?;
        }
        Ok(())
    }
}

impl<G> Default for Flags<G> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<G: FlagGroup> clap::FromArgMatches for Flags<G> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &'static Setting| {
            let text = match setting.kind {
                Kind::Bool if matches.get_flag(setting.name) => "true".to_owned(),
                Kind::Bool => {
                    let (off, _) = setting.off?;
                    matches.get_flag(off).then(|| "false".to_owned())?
                }
                _ => matches.get_one::<String>(setting.name)?.clone(),
            };
            Some((setting, text))
        };
        Ok(Self(of::<G>().filter_map(given).collect(), PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<G: FlagGroup> clap::Args for Flags<G> {
    fn augment_args(mut command: Command) -> Command {
        for setting in of::<G>() {
            let default = G::default(setting);
            let arg = flag(setting);
            let arg = match default {
                Some(default) => arg.help(format!("{} [default: {default}]", setting.help)),
                None => arg,
            };
            let Some((off, help)) = setting.off else {
                command = command.arg(arg);
                continue;
            };
            command = command.arg(arg.overrides_with(off)).arg(
                Arg::new(off)
                    .long(off)
                    .help(help)
                    .help_heading(setting.heading)
                    .action(ArgAction::SetTrue)
                    .overrides_with(setting.name),
            );
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

// === helpers ===

/// The flag that sets a value, without a default in its help.
fn flag(setting: &'static Setting) -> Arg {
    let arg = Arg::new(setting.name).long(setting.name).help(setting.help);
    let arg = if setting.heading.is_empty() { arg } else { arg.help_heading(setting.heading) };
    let parser = match setting.kind {
        Kind::Bool => return arg.action(ArgAction::SetTrue),
        Kind::Choice(values) => PossibleValuesParser::new(values()).into(),
        _ => ValueParser::from(move |text: &str| setting.parse(text).map(|_| text.to_owned())),
    };
    let arg = arg.value_name(setting.value).value_parser(parser);
    match setting.kind {
        Kind::Ports => arg.allow_hyphen_values(true),
        Kind::Path => arg.value_hint(ValueHint::AnyPath),
        _ => arg,
    }
}

fn of<G: FlagGroup>() -> impl Iterator<Item = &'static Setting> {
    Setting::all().filter(|setting| G::has(setting))
}
