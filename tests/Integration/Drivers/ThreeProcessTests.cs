using FramePin.Client;
using FramePin.V1;
using Xunit;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Daemon, driver and application, each its own program: frames are drawn into the application's pages, and every byte
/// is checked there.
/// </summary>
public sealed class ThreeProcessTests(ITestOutputHelper output)
{
    [Fact]
    public async Task Ten_thousand_1080p_frames_arrive_whole_and_no_pin_is_left()
    {
        const int frames = 10_000;
        await using var daemon = await DaemonProcess.StartAsync();
        using var client = FramePinClient.Connect(daemon.Endpoint);
        using var driver = daemon.StartCommand("drive", "vivid", "--fps", "0");
        Assert.Equal(
            "vivid serves machines/default/drivers/video0, pages mapped", await driver.StandardOutput.ReadLineAsync());
        using var application = daemon.StartCommand(
            "v4l2", "capture", "video0", "--frames", $"{frames}", "--width", "1920", "--height", "1080", "--check",
            "--memory", "local");
        var said = await application.StandardOutput.ReadToEndAsync();
        await application.WaitForExitAsync();
        output.WriteLine(said);
        Assert.Equal(0, application.ExitCode);
        Assert.Contains($"{frames} of 1920x1080 YUYV", said, StringComparison.Ordinal);
        Assert.Contains("0 wrong", said, StringComparison.Ordinal);
        var statistics = (await client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics;
        Assert.Equal((statistics.PinsAcquired, 0U), (statistics.PinsReleased, statistics.AddressSpaces));
        Assert.Empty((await client.Machines.AuditMachineAsync(new AuditMachineRequest())).Findings);
        driver.Kill();
        await driver.WaitForExitAsync();
    }

    [Fact]
    public async Task A_frame_that_is_not_what_the_driver_was_told_to_draw_is_noticed()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        using var driver = daemon.StartCommand("drive", "vivid", "--fps", "0");
        await driver.StandardOutput.ReadLineAsync();
        // Told to move, while the checker is told that it stands still: the second frame differs.
        using var application = daemon.StartCommand(
            "v4l2", "capture", "video0", "--frames", "5", "--check", "--check-movement", "0");
        var said = await application.StandardOutput.ReadToEndAsync();
        await application.WaitForExitAsync();
        Assert.Equal(1, application.ExitCode);
        Assert.Contains("4 wrong, the first is frame 1 from row 0 on", said, StringComparison.Ordinal);
        driver.Kill();
        await driver.WaitForExitAsync();
    }
}
