// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From text to a module: directives, declarations and bodies.

use std::collections::{HashMap, HashSet};

use super::assemble::{assemble, is_known};
use super::body::{Body, Named, NamedPlace};
use super::code::Space;
use super::cursor::{Cursor, Operand};
use super::declare::{self, Declaration};
use super::error::ParseError;
use super::lexer::{self, TokenKind};
use super::module::{Kernel, Module, Parameter, Variable, VariableSpace};
use super::types::Type;

/// The largest text.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// The newest PTX that is known.
const VERSION_MAX: f64 = 9.9;
/// The newest GPU whose instructions are known.
const TARGET_MAX: u32 = 90;
/// Kernel parameters: what `ptxas` allows.
const PARAMETER_BYTES_MAX: u64 = 32_764;
/// Static shared memory: what `ptxas` allows.
const STATIC_SHARED_BYTES_MAX: u64 = 48 << 10;
/// Local memory of one thread.
const LOCAL_BYTES_MAX: u64 = 512 << 10;

/// Reads a module.
pub(super) fn parse(text: &str) -> Result<Module, ParseError> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("a text of more than {TEXT_BYTES_MAX} bytes");
        return Err(ParseError::unsupported(1, message));
    }
    let mut parser = Parser {
        cursor: Cursor::new(lexer::tokens(text)?),
        module: Module {
            kernels: Vec::new(),
            variables: Vec::new(),
        },
        shared: HashMap::new(),
        names: HashSet::new(),
    };
    parser.header()?;
    while parser.cursor.peek().is_some() {
        parser.item()?;
    }
    Ok(parser.module)
}

/// A shared variable at module scope: every kernel that names it has its own.
#[derive(Clone, Copy, Debug)]
struct SharedVariable {
    bytes: u64,
    align: u64,
    /// Whether its size is what the launch gives.
    dynamic: bool,
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    module: Module,
    shared: HashMap<&'a str, SharedVariable>,
    names: HashSet<&'a str>,
}

/// Sizes of a block's own spaces while a kernel is read.
#[derive(Default)]
struct Layout<'a> {
    shared_bytes: u64,
    local_bytes: u64,
    /// Dynamic shared variables, placed behind all static ones.
    dynamic: Vec<(&'a str, u64)>,
}

/// Takes room in a space and returns where it begins.
fn place(used: &mut u64, bytes: u64, align: u64) -> Option<u64> {
    let start = used.checked_next_multiple_of(align)?;
    *used = start.checked_add(bytes)?;
    Some(start)
}

impl<'a> Parser<'a> {
    fn header(&mut self) -> Result<(), ParseError> {
        if !self.cursor.take_dotted("version") {
            return self.cursor.expected(".version");
        }
        match self.cursor.number()? {
            Operand::Double(version) if version <= VERSION_MAX => {}
            Operand::Double(version) => {
                return self.cursor.unsupported(format!("PTX version {version}"));
            }
            _ => return self.cursor.expected("a version"),
        }
        if !self.cursor.take_dotted("target") {
            return self.cursor.expected(".target");
        }
        loop {
            let target = self.cursor.name("a target")?;
            if let Some(number) = target.strip_prefix("sm_") {
                let digits = number.trim_end_matches(['a', 'f']);
                match digits.parse::<u32>() {
                    Ok(number) if number <= TARGET_MAX => {}
                    Ok(_) => return self.cursor.unsupported(format!("target {target}")),
                    Err(_) => return self.cursor.invalid(format!("target {target}")),
                }
            }
            if !self.cursor.take_mark(',') {
                break;
            }
        }
        if self.cursor.take_dotted("address_size") && self.cursor.size("an address size")? != 64 {
            return self.cursor.unsupported("addresses of 32 bits");
        }
        Ok(())
    }

    fn item(&mut self) -> Result<(), ParseError> {
        let mut external = false;
        loop {
            let line = self.cursor.line();
            match self.cursor.dotted("a directive")? {
                "visible" | "weak" | "common" => {}
                "extern" => external = true,
                "entry" if !external => return self.entry(),
                "func" => return self.skip_function(),
                "global" => return self.variable(VariableSpace::Global, external),
                "const" => return self.variable(VariableSpace::Constant, external),
                "shared" => return self.module_shared(),
                "file" | "loc" => {
                    self.cursor.skip_line();
                    return Ok(());
                }
                "section" => {
                    return self.cursor.skip_past('}');
                }
                "pragma" => return self.cursor.skip_past(';'),
                other => {
                    let message = format!(".{other} is not simulated");
                    return Err(ParseError::unsupported(line, message));
                }
            }
        }
    }

    /// Skips a device function: calls are refused, so nothing can run it.
    fn skip_function(&mut self) -> Result<(), ParseError> {
        loop {
            match self.cursor.peek() {
                Some(TokenKind::Mark(';')) => {
                    self.cursor.next();
                    return Ok(());
                }
                Some(TokenKind::Mark('{')) => return self.cursor.skip_past('}'),
                Some(_) => {
                    self.cursor.next();
                }
                None => return self.cursor.expected("the function's body"),
            }
        }
    }

    fn new_name(&mut self, name: &'a str) -> Result<(), ParseError> {
        if self.names.insert(name) {
            Ok(())
        } else {
            self.cursor.invalid(format!("{name} is defined twice"))
        }
    }

    fn variable(&mut self, space: VariableSpace, external: bool) -> Result<(), ParseError> {
        let declarations = declare::variables(&mut self.cursor)?;
        for declaration in declarations {
            self.new_name(declaration.name)?;
            let Declaration {
                name,
                bytes: Some(bytes),
                align,
                initial,
                addresses,
                ..
            } = declaration
            else {
                return self.cursor.unsupported("an array without a size");
            };
            if external {
                return self
                    .cursor
                    .unsupported(format!("{name} is not in this module"));
            }
            self.module.variables.push(Variable {
                name: name.to_owned(),
                space,
                bytes,
                align,
                initial,
                addresses,
            });
        }
        Ok(())
    }

    fn module_shared(&mut self) -> Result<(), ParseError> {
        for declaration in declare::variables(&mut self.cursor)? {
            self.new_name(declaration.name)?;
            if !declaration.initial.is_empty() {
                return self.cursor.invalid("shared memory has no initial value");
            }
            self.shared.insert(
                declaration.name,
                SharedVariable {
                    bytes: declaration.bytes.unwrap_or(0),
                    align: declaration.align,
                    dynamic: declaration.bytes.is_none(),
                },
            );
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<(), ParseError> {
        let name = self.cursor.name("the kernel's name")?;
        self.new_name(name)?;
        let mut body = Body::new();
        // Variables of the module that the body may name.
        for variable in &self.module.variables {
            let named = Named {
                space: Space::Global,
                place: NamedPlace::Linked,
            };
            // The set of names holds the same name for as long as the text lives.
            if let Some(name) = self.names.get(variable.name.as_str()) {
                body.declare_variable(name, named);
            }
        }
        let (parameters, parameter_bytes) = self.parameters(&mut body)?;
        let mut kernel = Kernel {
            name: name.to_owned(),
            parameters,
            parameter_bytes,
            static_shared_bytes: 0,
            local_bytes: 0,
            registers: 0,
            max_threads: 1024,
            required_block: None,
            required_cluster: None,
            explicit_cluster: false,
            code: Default::default(),
        };
        self.performance_directives(&mut kernel)?;
        // Static shared variables of the module belong to each kernel that names them.
        let mut layout = Layout::default();
        self.cursor.mark('{')?;
        let used = self.names_used()?;
        let mut shared: Vec<(&'a str, SharedVariable)> = self
            .shared
            .iter()
            .map(|(name, variable)| (*name, *variable))
            .filter(|(name, _)| used.contains(name))
            .collect();
        shared.sort_by_key(|(name, _)| *name);
        for (name, variable) in shared {
            if variable.dynamic {
                let place = NamedPlace::Linked;
                let space = Space::Shared;
                body.declare_variable(name, Named { space, place });
                layout.dynamic.push((name, variable.align));
                continue;
            }
            let at = place(&mut layout.shared_bytes, variable.bytes, variable.align);
            self.declare_shared(&mut body, name, at)?;
        }
        self.body(&mut body, &mut layout)?;
        // All dynamic variables begin at one place, behind the static ones.
        let align = layout.dynamic.iter().map(|(_, align)| *align).max();
        let behind = place(&mut layout.shared_bytes, 0, align.unwrap_or(1));
        for (name, _) in &layout.dynamic {
            body.settle(name, behind.unwrap_or(u64::MAX));
        }
        let (code, registers) = body.finish()?;
        kernel.code = code;
        kernel.registers = registers;
        kernel.static_shared_bytes = self.bounded(
            layout.shared_bytes,
            STATIC_SHARED_BYTES_MAX,
            "shared memory",
        )?;
        kernel.local_bytes = self.bounded(layout.local_bytes, LOCAL_BYTES_MAX, "local memory")?;
        self.module.kernels.push(kernel);
        Ok(())
    }

    fn bounded(&self, bytes: u64, most: u64, what: &str) -> Result<u32, ParseError> {
        match u32::try_from(bytes) {
            Ok(small) if bytes <= most => Ok(small),
            _ => self.cursor.unsupported(format!(
                "{bytes} bytes of {what}, where {most} are possible"
            )),
        }
    }

    fn parameters(&mut self, body: &mut Body<'a>) -> Result<(Vec<Parameter>, u32), ParseError> {
        let mut parameters = Vec::new();
        let mut used = 0;
        if !self.cursor.take_mark('(') || self.cursor.take_mark(')') {
            return Ok((parameters, 0));
        }
        loop {
            if !self.cursor.take_dotted("param") {
                return self.cursor.expected(".param");
            }
            let declaration = declare::parameter(&mut self.cursor)?;
            let Some(bytes) = declaration.bytes else {
                return self.cursor.unsupported("a parameter without a size");
            };
            let at = place(&mut used, bytes, declaration.align);
            let offset = self.bounded(at.unwrap_or(u64::MAX), PARAMETER_BYTES_MAX, "parameters")?;
            let bytes = self.bounded(bytes, PARAMETER_BYTES_MAX, "parameters")?;
            parameters.push(Parameter {
                name: declaration.name.to_owned(),
                offset,
                bytes,
                align: self.bounded(declaration.align, PARAMETER_BYTES_MAX, "alignment")?,
            });
            body.declare_variable(
                declaration.name,
                Named {
                    space: Space::Parameter,
                    place: NamedPlace::At(u64::from(offset)),
                },
            );
            if self.cursor.take_mark(')') {
                break;
            }
            self.cursor.mark(',')?;
        }
        let total = self.bounded(used, PARAMETER_BYTES_MAX, "parameters")?;
        Ok((parameters, total))
    }

    fn performance_directives(&mut self, kernel: &mut Kernel) -> Result<(), ParseError> {
        while let Some(TokenKind::Dotted(directive)) = self.cursor.peek() {
            let line = self.cursor.line();
            self.cursor.next();
            match directive {
                "maxntid" | "reqntid" => {
                    let shape = self.cursor.shape()?;
                    let threads = shape
                        .iter()
                        .fold(1_u32, |threads, side| threads.saturating_mul(*side));
                    if threads > 1024 {
                        return self.cursor.invalid(format!("a block of {threads} threads"));
                    }
                    kernel.max_threads = threads;
                    if directive == "reqntid" {
                        kernel.required_block = Some(shape);
                    }
                }
                "reqnctapercluster" => {
                    let shape = self.cursor.shape()?;
                    kernel.required_cluster = Some(shape);
                    kernel.explicit_cluster = true;
                }
                "explicitcluster" => kernel.explicit_cluster = true,
                "minnctapersm" | "maxnctapersm" | "maxnreg" | "maxclusterrank" => {
                    self.cursor.size("a number")?;
                }
                "pragma" => self.cursor.skip_past(';')?,
                "noreturn" => {}
                other => {
                    let message = format!(".{other} is not simulated");
                    return Err(ParseError::unsupported(line, message));
                }
            }
        }
        Ok(())
    }

    /// The names between here and the end of the body.
    fn names_used(&self) -> Result<HashSet<&'a str>, ParseError> {
        let mut ahead = self.cursor.clone();
        let mut names = HashSet::new();
        let mut depth = 1_u32;
        while depth > 0 {
            match ahead.next() {
                Some(TokenKind::Mark('{')) => depth += 1,
                Some(TokenKind::Mark('}')) => depth -= 1,
                Some(TokenKind::Name(name)) => {
                    names.insert(name);
                }
                Some(_) => {}
                None => return ahead.expected("'}'"),
            }
        }
        Ok(names)
    }

    fn declare_shared(
        &self,
        body: &mut Body<'a>,
        name: &'a str,
        at: Option<u64>,
    ) -> Result<(), ParseError> {
        let Some(at) = at else {
            return self.cursor.unsupported("too much shared memory");
        };
        body.declare_variable(
            name,
            Named {
                space: Space::Shared,
                place: NamedPlace::At(at),
            },
        );
        Ok(())
    }

    /// Reads a body behind its opening brace.
    fn body(&mut self, body: &mut Body<'a>, layout: &mut Layout<'a>) -> Result<(), ParseError> {
        loop {
            if self.cursor.take_mark('{') {
                body.open_scope();
                continue;
            }
            if self.cursor.take_mark('}') {
                if !body.close_scope() {
                    return Ok(());
                }
                continue;
            }
            if let Some(label) = self.cursor.take_label() {
                if self.cursor.take_dotted("branchtargets") {
                    let mut labels = vec![self.cursor.name("a label")?];
                    while self.cursor.take_mark(',') {
                        labels.push(self.cursor.name("a label")?);
                    }
                    self.cursor.mark(';')?;
                    body.declare_table(label, labels);
                } else {
                    body.declare_label(label, self.cursor.line())?;
                }
                continue;
            }
            if let Some(TokenKind::Dotted(directive)) = self.cursor.peek() {
                let line = self.cursor.line();
                self.cursor.next();
                self.body_directive(directive, line, body, layout)?;
                continue;
            }
            let statement = self.cursor.statement(is_known)?;
            assemble(body, &statement)?;
        }
    }

    fn body_directive(
        &mut self,
        directive: &str,
        line: u32,
        body: &mut Body<'a>,
        layout: &mut Layout<'a>,
    ) -> Result<(), ParseError> {
        match directive {
            "reg" => self.registers(body),
            "shared" | "local" => {
                for declaration in declare::variables(&mut self.cursor)? {
                    let Declaration {
                        name,
                        bytes: Some(bytes),
                        align,
                        ..
                    } = declaration
                    else {
                        return self.cursor.unsupported("an array without a size");
                    };
                    if !declaration.initial.is_empty() {
                        return self.cursor.invalid(format!("{name} has no initial value"));
                    }
                    let (space, used) = if directive == "shared" {
                        (Space::Shared, &mut layout.shared_bytes)
                    } else {
                        (Space::Local, &mut layout.local_bytes)
                    };
                    let Some(at) = place(used, bytes, align) else {
                        return self.cursor.unsupported(format!("{name} is too large"));
                    };
                    let place = NamedPlace::At(at);
                    body.declare_variable(name, Named { space, place });
                }
                Ok(())
            }
            "loc" | "file" => {
                self.cursor.skip_line();
                Ok(())
            }
            "pragma" => self.cursor.skip_past(';'),
            "param" => Err(ParseError::unsupported(
                line,
                ".param in a body: calls are not simulated",
            )),
            other => {
                let message = format!(".{other} is not simulated here");
                Err(ParseError::unsupported(line, message))
            }
        }
    }

    fn registers(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        body.line = self.cursor.line();
        let name = self.cursor.dotted("a type")?;
        // Half-precision registers are bits: no arithmetic on them is accepted.
        let ty = match name {
            "f16" | "bf16" => Type::parse("b16"),
            "f16x2" | "bf16x2" => Type::parse("b32"),
            _ => Type::parse(name),
        };
        let Some(ty) = ty else {
            return self
                .cursor
                .unsupported(format!("registers of type .{name}"));
        };
        loop {
            let name = self.cursor.name("a register's name")?;
            if self.cursor.take_mark('<') {
                let count = self.cursor.size("a count")?;
                self.cursor.mark('>')?;
                body.declare_registers(name, ty, count);
            } else {
                body.declare_register(name, ty)?;
            }
            if self.cursor.take_mark(';') {
                return Ok(());
            }
            self.cursor.mark(',')?;
        }
    }
}
