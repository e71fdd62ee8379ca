using System.CommandLine;
using FramePin.Cli;

var line = new CommandLine();
var root = new RootCommand(
    "framepin: talks to the FramePin daemon.\n\nExamples:\n  framepin create --profile 6.18\n"
    + "  framepin map as1 64K --touch -m m1\n"
    + "  framepin pin as1 0x7ffff7fef000 16 --write -m m1\n  framepin demo")
{
    line.Endpoint, line.OutputForm, line.Machine,
};
foreach (var command in SpaceCommands.Create(line).Concat(PinCommands.Create(line)).Concat(
    LeaseCommands.Create(line)).Concat(ReplayCommands.Create(line))
    .Concat(DriverCommands.Create(line)).Concat(V4l2Commands.Create(line)).Concat(FaultCommands.Create(line)))
    root.Subcommands.Add(command);
foreach (var command in DemoCommands.Create().Concat(ConformanceCommands.Create())) root.Subcommands.Add(command);
var parsed = root.Parse(args);
if (parsed.Errors.Count > 0)
{
    foreach (var error in parsed.Errors) Console.Error.WriteLine(error.Message);
    Console.Error.WriteLine("see framepin --help");
    return CommandLine.Usage;
}

return await parsed.InvokeAsync();
