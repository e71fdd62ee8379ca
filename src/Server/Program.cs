using System.CommandLine;
using FramePin.Server;
using FramePin.Server.Configuration;

var socket = new Option<string?>("--socket") { Description = "Unix socket to listen on." };
var tcp = new Option<int?>("--tcp") { Description = "Loopback TCP port to listen on; 0 takes a free one." };
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
    + "Traces and metrics go where OTEL_EXPORTER_OTLP_ENDPOINT says; without it they stay here.")
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
    if (FramePin.Core.Abi.KernelProfile.Find(parsed.GetValue(profile)!) is null || machine.Validate() is not null)
    {
        Console.Error.WriteLine(machine.Validate() ?? "unknown profile: "
            + string.Join(", ", FramePin.Core.Abi.KernelProfile.All.Select(known => known.Name)) + " are known");
        return Task.FromResult(2);
    }

    var group = parsed.GetValue(attachGroup) is { } name ? LocalUser.Group(name) : null;
    if (parsed.GetValue(attachGroup) is not null && group is null)
    {
        Console.Error.WriteLine($"no group '{parsed.GetValue(attachGroup)}' in /etc/group");
        return Task.FromResult(2);
    }

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
return await root.Parse(args).InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = null });
