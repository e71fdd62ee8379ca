using System.CommandLine;
using System.ComponentModel;
using FramePin.Server;
using FramePin.Server.Configuration;

var socket = new Option<string?>("--socket")
{
    Description = "Unix socket to listen on. Local calls use the same path with .calls.",
};
var tcp = new Option<int?>("--tcp")
{
    Description = "Loopback TCP port to listen on; 0 takes a free one. 7461 when there is no --socket either.",
};
var profile = new Option<string>("--default-profile")
{
    Description = "Kernel profile of machines/default.",
    DefaultValueFactory = _ => "4.3",
};
var memory = new Option<ulong>("--default-memory-mib")
{
    Description = "Memory of machines/default in MiB.",
    DefaultValueFactory = _ => 1024,
};
var attach = new Option<string?>(
    "--attach-socket")
{ Description = "Unix socket where local processes get a machine's memory." };
var attachGroup = new Option<string?>(
    "--attach-group")
{ Description = "Group whose members may attach, beside root and the daemon's own user." };
var noDefault = new Option<bool>("--no-default-machine") { Description = "Start without machines/default." };
var root = new RootCommand(
    "framepind: owns emulated Linux address spaces and serves pin, unpin and convert.\n\n"
    + "Examples:\n  framepind --tcp 7461\n  framepind --socket /run/framepin.sock --default-profile 6.18\n\n"
    + "Traces and metrics go where OTEL_EXPORTER_OTLP_ENDPOINT says; without it they stay here.\n"
    + "Exit codes: 0 ended by a signal, 2 wrong usage or nowhere to listen, 3 the audit at the end found something.")
{
    socket, tcp, attach, attachGroup, profile, memory, noDefault,
};
root.SetAction((parsed, cancelled) =>
{
    var isBare = parsed.GetValue(socket) is null && parsed.GetValue(tcp) is null;
    var machine = new FramePin.Core.Machines.MachineOptions
    {
        Profile = FramePin.Core.Abi.KernelProfile.Find(parsed.GetValue(profile)!)
            ?? FramePin.Core.Abi.KernelProfile.Default,
        Memory = parsed.GetValue(memory) << 20,
    };
    if (FramePin.Core.Abi.KernelProfile.Find(parsed.GetValue(profile)!) is null)
        return Wrong($"--default-profile: '{parsed.GetValue(profile)}': "
            + string.Join(", ", FramePin.Core.Abi.KernelProfile.All.Select(known => known.Name)) + " are known");
    if (parsed.GetValue(memory) > ulong.MaxValue >> 20) return Wrong("--default-memory-mib: more than 64 bits hold");
    if (machine.Validate() is { } reason) return Wrong($"--default-memory-mib: {reason}");
    var group = parsed.GetValue(attachGroup) is { } name ? LocalUser.Group(name) : null;
    if (parsed.GetValue(attachGroup) is not null && group is null)
        return Wrong($"--attach-group: no group '{parsed.GetValue(attachGroup)}' in /etc/group");
    return Daemon.RunAsync(
        new DaemonOptions
        {
            SocketPath = parsed.GetValue(socket),
            AttachSocketPath = parsed.GetValue(attach),
            AttachGroup = group,
            TcpPort = isBare ? 7461 : parsed.GetValue(tcp),
            DefaultMachine = parsed.GetValue(noDefault) ? null : machine,
        },
        cancelled);
});
var line = root.Parse(args);
if (line.Errors.Count > 0) return await Wrong(line.Errors[0].Message);
try
{
    return await line.InvokeAsync(
        new InvocationConfiguration { ProcessTerminationTimeout = null, EnableDefaultExceptionHandler = false });
}
catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or Win32Exception)
{
    // What the host refuses: a socket, memory, a descriptor. Anything else is a fault of the daemon.
    return await Wrong(exception.Message);
}

static Task<int> Wrong(string reason)
{
    Console.Error.WriteLine($"framepind: {reason}".ReplaceLineEndings(" "));
    Console.Error.WriteLine("see framepind --help");
    return Task.FromResult(Daemon.WrongUsage);
}
