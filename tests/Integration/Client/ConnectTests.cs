using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>A daemon that cannot be reached (fault S11): the sentence names the place and the reason.</summary>
public sealed class ConnectTests : IDisposable
{
    private const int Other = 65534;

    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-connect-").FullName;

    private string Socket => Path.Combine(_folder, "s");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task S11_a_path_without_a_file_is_named() =>
        Assert.Equal($"no daemon at {Socket}: there is no such file", (await RefusalAsync($"unix:{Socket}")).Message);

    [Fact]
    public async Task S11_a_socket_that_nobody_listens_on_is_named()
    {
        using var dead = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        dead.Bind(new UnixDomainSocketEndPoint(Socket));
        Assert.Equal($"no daemon at {Socket}: nobody listens there", (await RefusalAsync($"unix:{Socket}")).Message);
    }

    [Fact]
    public async Task S11_a_port_that_nobody_listens_on_is_named()
    {
        using var free = new TcpListener(IPAddress.Loopback, 0);
        free.Start();
        var endpoint = free.LocalEndpoint.ToString()!;
        free.Stop();
        Assert.Equal(
            $"no daemon at {endpoint}: nobody listens there", (await RefusalAsync($"http://{endpoint}")).Message);
    }

    [Fact]
    public async Task S11_a_socket_that_the_user_may_not_open_is_permission_denied()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "only root becomes another user");
        using var daemon = DaemonRun.Start("--no-default-machine", "--socket", Socket);
        await daemon.ReadyAsync();
        // Passed through by everyone, as /run is; the sockets are their owner's.
        foreach (var (mode, file) in new[] { ("711", _folder), ("600", Socket), ("600", Socket + ".calls") })
            using (var change = Process.Start("chmod", [mode, file]))
                await change.WaitForExitAsync(TestContext.Current.CancellationToken);
        var program = Path.Combine(
            AppContext.BaseDirectory.Replace(
                "FramePin.Tests.Integration", "FramePin.Cli", StringComparison.Ordinal), "framepin");
        var start = new ProcessStartInfo(
            "setpriv",
            [$"--reuid={Other}", $"--regid={Other}", "--clear-groups", program, "machines", "-e", $"unix:{Socket}"])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        using var process = Process.Start(start)!;
        var (output, errors) = (process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal((3, "", $"permission denied: {Socket}\n"), (process.ExitCode, await output, await errors));
    }

    private static async Task<FramePinException> RefusalAsync(string endpoint)
    {
        using var client = FramePinClient.Connect(endpoint);
        var refusal = await Assert.ThrowsAsync<FramePinException>(
            () => client.DefaultMachine.CreateAddressSpaceAsync());
        Assert.Equal((StatusCode.Unavailable, "UNREACHABLE"), (refusal.StatusCode, refusal.Reason));
        return refusal;
    }
}
