using FramePin.Server.Native;
using Xunit;
using File = System.IO.File;

namespace FramePin.Tests.Integration;

/// <summary>
/// A listener removes its own file and no other (fault S1), also where the file system gives the inode of a file that
/// is gone to the next one.
/// </summary>
public sealed class ListenerTests : IDisposable
{
    /// <summary>File systems that give the number of an inode anew do so within a few files.</summary>
    private const int Rounds = 32;
    private const int Other = 65534;

    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-listener-").FullName;

    private string Socket => Path.Combine(_folder, "s");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void S1_a_listener_that_is_disposed_again_leaves_the_socket_of_another()
    {
        for (var round = 0; round < Rounds; round++)
        {
            var first = UnixListener.Bind(Socket);
            first.Dispose();
            Assert.False(File.Exists(Socket));
            using var second = UnixListener.Bind(Socket);
            first.Dispose();
            Assert.True(File.Exists(Socket));
        }
    }

    [Fact]
    public void S1_a_listener_whose_file_was_removed_leaves_the_socket_of_another()
    {
        for (var round = 0; round < Rounds; round++)
        {
            var first = UnixListener.Bind(Socket);
            // As the server does at its end, long before the file goes.
            first.Socket.Dispose();
            File.Delete(Socket);
            using var second = UnixListener.Bind(Socket);
            first.Dispose();
            Assert.True(File.Exists(Socket));
        }
    }

    [Theory]
    [InlineData("700")]
    [InlineData("744")]
    [InlineData("755")]
    public async Task S14_a_folder_without_the_right_is_named_and_no_other_file(string mode)
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "only root becomes another user");
        using (var change = System.Diagnostics.Process.Start("chmod", [mode, _folder]))
            await change.WaitForExitAsync(TestContext.Current.CancellationToken);
        using var run = DaemonRun.StartAs(Other, "--no-default-machine", "--socket", Socket);
        await run.RefusedAsync(
            $"framepind: {Socket}: no socket can be made in the folder {_folder}: Permission denied");
    }

    // S14: the host has no memory for the machine.
    [Fact]
    public async Task S14_memory_that_the_host_refuses_is_named_with_the_reason()
    {
        using var run = DaemonRun.StartUnder(
            ["sh", "-c", "trap '' XFSZ; ulimit -f 1000; exec \"$@\"", "sh"],
            [("DOTNET_EnableWriteXorExecute", "0")], "--socket", Socket);
        await run.RefusedAsync("framepind: sizing the machine's memory: File too large");
    }
}
