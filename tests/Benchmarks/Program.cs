using FramePin.Benchmarks;

foreach (var row in CorePins.Run(rounds: 101))
{
    Console.WriteLine(
        $"{row.Memory,-16} {row.Pages,7}  pin {row.KernelPin,9:F3} {row.Pin,8:F3} {row.PinRatio,6:F3}   "
        + $"unpin {row.KernelUnpin,9:F3} {row.Unpin,8:F3} {row.UnpinRatio,6:F3}  {row.AllocatedBytes} B");
}
