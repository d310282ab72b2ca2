//! `lamina plan`: the layout of a model's blocks and what a proof costs.

use crate::{
    Session,
    cli::{ModelArgs, PlanArgs},
    failure::Result,
    output::table,
    source::{self, Choices},
};

impl ModelArgs {
    /// How the model becomes integers.
    pub fn choices(&self) -> Choices<'_> {
        Choices {
            weight_bits: self.weight_bits,
            tokens: self.tokens,
            answer: self.answer,
            calibrate: self.calibrate.as_deref(),
            headroom_bits: self.headroom,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The model is unusable, or no layout fits.
pub fn run(session: &Session, arguments: &PlanArgs) -> Result<()> {
    let output = &session.output;
    let prepared =
        source::prepare(&session.output, arguments.model.model.as_deref(), &arguments.model.choices())?;
    let plan = &prepared.plan;
    let mut value = serde_json::to_value(plan)?;
    value["headroom"] = serde_json::to_value(&prepared.integers.headroom)?;
    output.value(&value)?;
    output.line(plan.to_string())?;
    let mut rows = vec![["site", "largest", "limit", "room, bits"].map(String::from).to_vec()];
    rows.extend(prepared.integers.headroom.iter().map(|site| {
        vec![
            site.site.clone(),
            format!("{:.0}", site.largest),
            format!("{:.0}", site.limit),
            format!("{:.2}", site.headroom_bits),
        ]
    }));
    output.line("")?;
    table(&rows).into_iter().try_for_each(|line| output.line(line))
}
