using System.CommandLine;
using FramePin.Core.Abi;
using FramePin.Core.Machines;
using FramePin.Server.Configuration;

namespace FramePin.Server;

/// <summary>The command line of framepind.</summary>
internal static class DaemonCommand
{
    private const int UsualPort = 7461;

    private static readonly Option<string?> Socket = new("--socket")
    {
        Description = "Unix socket to listen on. Local calls use the same path with .calls.",
    };

    private static readonly Option<int?> Tcp = new("--tcp")
    {
        Description =
            $"Loopback TCP port to listen on; 0 takes a free one. {UsualPort} when there is no --socket either.",
    };

    private static readonly Option<string> Profile = new("--default-profile")
    {
        Description = "Kernel profile of machines/default.",
        DefaultValueFactory = _ => "4.3",
    };

    private static readonly Option<ulong> Memory = new("--default-memory-mib")
    {
        Description = "Memory of machines/default in MiB.",
        DefaultValueFactory = _ => 1024,
    };

    private static readonly Option<string?> Attach = new("--attach-socket")
    {
        Description = "Unix socket where local processes get a machine's memory.",
    };

    private static readonly Option<string?> AttachGroup = new("--attach-group")
    {
        Description = "Group whose members may attach, beside root and the daemon's own user.",
    };

    private static readonly Option<bool> NoDefault = new("--no-default-machine")
    {
        Description = "Start without machines/default.",
    };

    /// <summary>The command, which runs the daemon. Its action answers the exit code.</summary>
    public static RootCommand Create()
    {
        var root = new RootCommand(
            "framepind: owns emulated Linux address spaces and serves pin, unpin and convert.\n\n"
            + "Examples:\n  framepind --tcp 7461\n  framepind --socket /run/framepin.sock --default-profile 6.18\n\n"
            + "Traces and metrics go where OTEL_EXPORTER_OTLP_ENDPOINT says, or for one of the two where\n"
            + "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT says; without them\n"
            + "they stay here.\n"
            + "Exit codes: 0 ended by a signal, 2 wrong usage or nowhere to listen, "
            + "3 the audit at the end found something.")
        {
            Socket, Tcp, Attach, AttachGroup, Profile, Memory, NoDefault,
        };
        root.SetAction((parsed, cancelled) => OptionsOf(parsed, out var wrong) is { } options
            ? Daemon.RunAsync(options, cancelled)
            : Task.FromResult(Wrong(wrong)));
        return root;
    }

    /// <summary>Tells a wrong word, in one line.</summary>
    /// <returns>The exit code.</returns>
    public static int Wrong(string reason)
    {
        Daemon.Tell(Console.Error, $"framepind: {reason}".ReplaceLineEndings(" "));
        Daemon.Tell(Console.Error, "see framepind --help");
        return Daemon.WrongUsage;
    }

    /// <summary>How the daemon is to be started; null, and the reason, for a value that cannot be meant so.</summary>
    private static DaemonOptions? OptionsOf(ParseResult parsed, out string wrong)
    {
        var (name, mebibytes) = (parsed.GetValue(Profile)!, parsed.GetValue(Memory));
        var group = parsed.GetValue(AttachGroup);
        var machine = new MachineOptions
        {
            Profile = KernelProfile.Find(name) ?? KernelProfile.Default,
            Memory = mebibytes << 20,
        };
        var number = group is null ? null : LocalUser.Group(group);
        var known = string.Join(", ", KernelProfile.All.Select(profile => profile.Name));
        wrong = KernelProfile.Find(name) is null ? $"--default-profile: '{name}': {known} are known"
            : mebibytes > ulong.MaxValue >> 20 ? "--default-memory-mib: more than 64 bits hold"
            : machine.Validate() is { } problem ? $"--default-memory-mib: {problem}"
            : group is not null && number is null ? $"--attach-group: no group '{group}' in /etc/group"
            : "";
        if (wrong.Length > 0) return null;
        var isBare = parsed.GetValue(Socket) is null && parsed.GetValue(Tcp) is null;
        return new DaemonOptions
        {
            SocketPath = parsed.GetValue(Socket),
            AttachSocketPath = parsed.GetValue(Attach),
            AttachGroup = number,
            TcpPort = isBare ? UsualPort : parsed.GetValue(Tcp),
            DefaultMachine = parsed.GetValue(NoDefault) ? null : machine,
        };
    }
}
